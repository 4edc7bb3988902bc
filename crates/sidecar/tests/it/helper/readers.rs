//! Processes that are told about renewals.

use std::process::{Child, Command};

use super::harness::{JWT, Pod, X509, agent, eventually, script};

/// Says in a log what happens to it, until it is told to end.
fn reader(pod: &Pod) -> (std::path::PathBuf, std::path::PathBuf) {
    let (path, log) = (pod.beside("reader.sh"), pod.beside("log"));
    script(
        &path,
        "log=$1\ntrap 'echo renewed >> \"$log\"' USR1\ntrap 'echo ended >> \"$log\"; exit 0' TERM\n\
         trap 'exit 3' USR2\necho \"started $2 $(ls \"$3\" | wc -l)\" >> \"$log\"\necho $$ > \"$log.pid\"\n\
         while :; do sleep 0.02; done\n",
    );
    (path, log)
}

fn lines(log: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_command_is_started_when_all_is_there_signalled_at_renewals_and_ended_at_the_end() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{X509}{JWT}renew_signal = \"SIGUSR1\"\n"));
    let (path, log) = reader(&pod);
    let config = pod.beside("helper.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    let arguments =
        format!("{} {} \\\"two words\\\" {}", path.display(), log.display(), pod.path("").display());
    std::fs::write(&config, format!("{text}cmd = \"/bin/sh\"\ncmd_args = \"{arguments}\"\n")).unwrap();
    let helper = pod.start().await;
    eventually("the start", async || pod.beside("log.pid").exists()).await;
    // All four files were there when it began.
    assert_eq!(lines(&log), ["started two words 4"]);

    agent.rotate_x509();
    eventually("the signal", async || lines(&log).len() == 2).await;
    assert_eq!(lines(&log)[1], "renewed");

    // It ends by itself: the next renewal starts it again.
    let process = std::fs::read_to_string(pod.beside("log.pid")).unwrap();
    std::fs::remove_file(pod.beside("log.pid")).unwrap();
    assert!(Command::new("kill").args(["-USR2", process.trim()]).status().unwrap().success());
    eventually("its end", async || !std::path::Path::new("/proc").join(process.trim()).exists()).await;
    agent.rotate_x509();
    eventually("another start", async || pod.beside("log.pid").exists()).await;
    assert_eq!(lines(&log)[2], "started two words 4");

    helper.stop().await.unwrap();
    assert_eq!(lines(&log).last().unwrap(), "ended");
}

#[tokio::test]
async fn nobody_is_told_when_nothing_changed() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{X509}renew_signal = \"USR1\"\n"));
    let (path, log) = reader(&pod);
    let config = pod.beside("helper.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    let arguments = format!("{} {} x {}", path.display(), log.display(), pod.path("").display());
    std::fs::write(&config, format!("{text}cmd = \"/bin/sh\"\ncmd_args = \"{arguments}\"\n")).unwrap();
    let _helper = pod.start().await;
    eventually("the start", async || pod.beside("log.pid").exists()).await;
    let calls = agent.calls("FetchX509SVID");
    agent.stop().await;
    agent.restart().await;
    agent.wait_for_calls("FetchX509SVID", calls + 1).await;
    let certificate = pod.read("svid.pem");
    agent.rotate_x509();
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
    eventually("one signal", async || lines(&log).len() >= 2).await;
    assert_eq!(lines(&log), ["started x 3", "renewed"]);
}

#[tokio::test]
async fn a_command_that_cannot_be_started_does_not_keep_the_files_from_being_renewed() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{X509}cmd = \"/no/such/program\"\n"));
    let helper = pod.start().await;
    eventually("the SVID", async || pod.is_there("svid.pem")).await;
    let certificate = pod.read("svid.pem");
    agent.rotate_x509();
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
    helper.stop().await.unwrap();
}

/// Ends with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_process_of_the_pid_file_is_signalled_also_when_it_comes_late() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{X509}renew_signal = \"SIGUSR1\"\n"));
    let (path, log) = reader(&pod);
    let pid_file = pod.beside("server.pid");
    let config = pod.beside("helper.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}pid_file_name = \"{}\"\n", pid_file.display())).unwrap();
    let mut command = Command::new("/bin/sh");
    command.arg(&path).arg(&log).arg("x").arg(pod.path(""));
    let child = Guarded(command.spawn().unwrap());
    eventually("the process", async || pod.beside("log.pid").exists()).await;

    let helper = pod.start().await;
    eventually("the SVID", async || pod.is_there("svid.pem")).await;
    std::fs::write(&pid_file, format!("{}\n", child.0.id())).unwrap();
    eventually("the first signal", async || lines(&log).len() == 2).await;
    agent.rotate_x509();
    eventually("the second signal", async || lines(&log).len() == 3).await;
    assert_eq!(lines(&log)[1..], ["renewed", "renewed"]);
    helper.stop().await.unwrap();
    assert_eq!(lines(&log).len(), 3, "only its own child is ended");
}
