//! A certificate in files that somebody else writes, such as those of a mounted Secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use super::certificate::{Certificate, TlsError, load};
use super::slot::CertificateSlot;
use crate::watch::SteadyWatch;

/// How often files are read again though nothing was told: a change that was missed, the end of a certificate.
const LOOK: Duration = Duration::from_secs(60);
/// The same after they could not be used: a certificate may become valid, and a file readable, unseen.
const RETRY: Duration = Duration::from_secs(10);
/// How often two files are read until both are of one version.
const READS: usize = 3;

/// Where a certificate chain and its key are, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why files were refused.
#[derive(Debug, Error)]
#[error("the certificate {} with the key {} can't be used", files.certificate.display(), files.key.display())]
struct FilesRefused {
    /// The files.
    files: CertificateFiles,
    /// Why.
    source: TlsError,
}

impl CertificateFiles {
    /// Reads both.
    ///
    /// # Errors
    /// As of [`load`], and when a file can't be read.
    pub fn load(&self, now: Timestamp) -> Result<Certificate, TlsError> {
        let mut certificate = read(&self.certificate)?;
        for _ in 1..READS {
            let key = read(&self.key)?;
            // Two files can't be read in one step. When the first is the same afterwards, both are of one
            // version, since whoever writes them in two steps makes another change of it.
            let again = read(&self.certificate)?;
            if again == certificate {
                return load(&certificate, &key, now);
            }
            certificate = again;
        }
        load(&certificate, &read(&self.key)?, now)
    }
}

/// Reads the files, and again whenever they change, for as long as this is polled.
pub async fn watch_files(files: CertificateFiles, slot: CertificateSlot) {
    // Before they are read, so that no change falls in between.
    let mut watch = SteadyWatch::new([files.certificate.clone(), files.key.clone()]);
    loop {
        let read = read_now(&files, &slot).await;
        let wait = if read.is_ok() { LOOK } else { RETRY };
        slot.offer(read);
        tokio::select! {
            () = watch.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn read_now(files: &CertificateFiles, slot: &CertificateSlot) -> Result<Certificate, FilesRefused> {
    let (asked, now) = (files.clone(), slot.now());
    let read = tokio::task::spawn_blocking(move || asked.load(now)).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(TlsError::Read { path: files.certificate.clone(), source })
    });
    read.map_err(|source| FilesRefused { files: files.clone(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use skep_testkit::{TestCa, TestCertificate};

    use super::*;
    use crate::clock::SystemClock;
    use crate::drain::Drain;
    use crate::health::{Readiness, ReadinessReport};
    use crate::metrics::Metrics;
    use crate::tls::{CertificateMetrics, PART, ServingCertificate};

    /// A folder as kubelet mounts a Secret: files are links into `..data`, which is a link to a version.
    struct Mount {
        folder: tempfile::TempDir,
        versions: usize,
    }

    impl Mount {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for file in ["tls.crt", "tls.key"] {
                symlink(Path::new("..data").join(file), folder.path().join(file)).unwrap();
            }
            Self { folder, versions: 0 }
        }

        fn write(&mut self, certificate: &str, key: &str) {
            self.versions += 1;
            let name = format!("..version{}", self.versions);
            let version = self.folder.path().join(&name);
            fs::create_dir(&version).unwrap();
            fs::write(version.join("tls.crt"), certificate).unwrap();
            fs::write(version.join("tls.key"), key).unwrap();
            let (new, data) = (self.folder.path().join("..new"), self.folder.path().join("..data"));
            symlink(&name, &new).unwrap();
            fs::rename(new, data).unwrap();
        }

        fn put(&mut self, certificate: &TestCertificate) {
            self.write(&certificate.certificate_pem, &certificate.key_pem);
        }

        fn files(&self) -> CertificateFiles {
            let at = |file| self.folder.path().join(file);
            CertificateFiles { certificate: at("tls.crt"), key: at("tls.key") }
        }
    }

    async fn until(what: &str, wanted: impl Fn() -> bool) {
        let done = async {
            while !wanted() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), done).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn files_are_read_again_and_a_bad_version_does_not_replace_a_good_one() {
        let mut mount = Mount::new();
        let (serving, readiness, registry) = (ServingCertificate::empty(), Readiness::new(), Metrics::new());
        let metrics = CertificateMetrics::register(&registry, "test");
        let slot = CertificateSlot::new(serving.clone(), readiness.clone(), metrics, SystemClock::shared());
        let report = || -> ReadinessReport { readiness.report(&Drain::new().watch()) };
        let presented =
            |name: &str| serving.current().is_some_and(|current| current.names() == [name.to_owned()]);
        assert_eq!(report().reasons[PART], "there is no certificate yet");
        let watching = tokio::spawn(watch_files(mount.files(), slot));
        until("it says that the file is missing", || {
            report().reasons.get(PART).is_some_and(|reason| reason.contains("tls.crt can't be read"))
        })
        .await;
        let ca = TestCa::new();
        let (first, second) = (ca.server(&["first.example"]), ca.server(&["second.example"]));
        mount.put(&first);
        until("the first is presented", || presented("first.example")).await;
        assert!(report().ready && report().warnings.is_empty());
        mount.write(&second.certificate_pem, &first.key_pem);
        until("the bad one is told", || {
            report().warnings.get(PART).is_some_and(|warning| warning.contains("does not belong"))
        })
        .await;
        assert!(report().ready && presented("first.example"));
        mount.put(&second);
        until("the second is presented", || presented("second.example")).await;
        assert!(report().ready && report().warnings.is_empty());
        let text = registry.encode();
        let end = serving.not_after().unwrap().as_second();
        for line in [
            "test_certificate_reloads_total{outcome=\"loaded\"} 2".to_owned(),
            // The missing file, then the wrong key.
            "test_certificate_reloads_total{outcome=\"refused\"} 2".to_owned(),
            format!("test_certificate_expiry_timestamp_seconds {end}"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        watching.abort();
    }
}
