//! The program itself, as a child process: signals, crashes, restarts and what it writes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::relay::{Backend, Settings};

/// A relay that runs as a process of its own.
pub struct RelayProcess {
    pub address: SocketAddr,
    settings: BTreeMap<String, String>,
    child: Child,
    written: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    cwd: TempDir,
    /// What a shell does before it becomes the program.
    before: &'static str,
}

impl RelayProcess {
    /// Starts the program on a backend and waits until it is ready.
    pub async fn start(backend: &Backend, settings: Settings<'_>) -> Self {
        Self::start_after(":", backend, settings).await
    }

    /// Starts the program from a shell that did something before.
    pub async fn start_after(before: &'static str, backend: &Backend, settings: Settings<'_>) -> Self {
        let port = free_port();
        let mut all = backend.settings(settings);
        all.insert("PORT".into(), port.to_string());
        let cwd = tempfile::tempdir().unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        let (child, readers) = spawn(before, &all, &cwd, &written);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut process = Self { address, settings: all, child, written, readers, cwd, before };
        process.ready().await;
        process
    }

    /// Its address as clients dial it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its number in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote to standard output and standard error, over all its lives.
    pub fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    /// Asks it to stop (SIGTERM) without waiting.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.ended(Duration::from_secs(30)).await
    }

    /// Kills it (SIGKILL): nothing of it runs any more.
    pub async fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.ended(Duration::from_secs(10)).await;
        assert_eq!(status.signal(), Some(9));
    }

    /// Waits for the end, at most this long.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the process did not end in {patience:?}:\n{}",
                self.written()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts it again after its end: same data, same port, same settings.
    pub async fn restart(&mut self) {
        let settings = self.settings.clone();
        (self.child, self.readers) = spawn(self.before, &settings, &self.cwd, &self.written);
        self.ready().await;
    }

    /// Asks it to read its certificate again (SIGHUP).
    pub fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn is_ready(&self) -> bool {
        if self.settings.contains_key("TLS_CERT_PATH") {
            return program(&self.settings, &self.cwd).arg("healthcheck").output().unwrap().status.success();
        }
        let answer = reqwest::get(format!("{}/health/ready", self.url())).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if self.is_ready().await {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the relay ended while starting:\n{}", self.written());
            assert!(Instant::now() < deadline, "the relay is not ready:\n{}", self.written());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end with these arguments and settings alone.
pub fn run(arguments: &[&str], settings: &BTreeMap<String, String>) -> Output {
    let cwd = tempfile::tempdir().unwrap();
    program(settings, &cwd).args(arguments).output().unwrap()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn program(settings: &BTreeMap<String, String>, cwd: &TempDir) -> Command {
    told(Command::new(env!("CARGO_BIN_EXE_restante")), settings, cwd)
}

fn told(mut program: Command, settings: &BTreeMap<String, String>, cwd: &TempDir) -> Command {
    program.env_clear().envs(settings).current_dir(cwd.path()).stdin(Stdio::null());
    program
}

fn spawn(
    before: &str,
    settings: &BTreeMap<String, String>,
    cwd: &TempDir,
    written: &Arc<Mutex<String>>,
) -> (Child, Vec<JoinHandle<()>>) {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("{before}; exec \"$0\"")).arg(env!("CARGO_BIN_EXE_restante"));
    let mut program = told(shell, settings, cwd);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let readers = vec![
        collect(child.stdout.take().unwrap(), Arc::clone(written)),
        collect(child.stderr.take().unwrap(), Arc::clone(written)),
    ];
    (child, readers)
}

fn collect(output: impl Read + Send + 'static, written: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut written = written.lock().unwrap();
            written.push_str(&line);
            written.push('\n');
        }
    })
}
