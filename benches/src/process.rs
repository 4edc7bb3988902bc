//! The real binary as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

/// A `skep proxy run` that ends with its handle.
pub struct ProxyProcess {
    child: Child,
    _folders: [tempfile::TempDir; 2],
    /// From spawning it to the first 200 of `/readyz`.
    pub start_to_ready: Duration,
}

/// The release binary beside the benchmark's own.
///
/// # Errors
/// When it was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).map(|folder| folder.join("skep")).context("where am I?")?;
    anyhow::ensure!(
        path.exists(),
        "{} is not there: run `cargo build --release --package skep` first",
        path.display()
    );
    Ok(path)
}

impl ProxyProcess {
    /// Starts a proxy that listens on `address`.
    ///
    /// # Errors
    /// When it isn't ready in time.
    pub async fn start(run_config: &Value, address: SocketAddr) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("runconfig.json");
        std::fs::write(&config, run_config.to_string())?;
        let output = tempfile::tempdir()?;
        let audit = std::fs::File::create(output.path().join("audit.log"))?;
        let begun = Instant::now();
        let child = spawn(&config, audit)?;
        let mut process = Self { child, _folders: [folder, output], start_to_ready: Duration::ZERO };
        while !is_ready(address).await {
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(20), "the proxy is not ready after 20 s");
            anyhow::ensure!(process.child.try_wait()?.is_none(), "the proxy ended before it was ready");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.start_to_ready = begun.elapsed();
        Ok(process)
    }

    /// Resident memory in MiB, as the kernel counts it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Path, audit: std::fs::File) -> anyhow::Result<Child> {
    Command::new(binary()?)
        .args(["proxy", "run", "--egress-loopback", "--config"])
        .arg(config)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(audit)
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start skep")
}

async fn is_ready(address: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return false };
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}
