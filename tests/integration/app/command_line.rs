//! What a person at a terminal meets.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::sync::Arc;

use crate::support::flow::{Client, call};
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

/// Runs to the end; the exit code, standard output and standard error.
fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    // One that should end and does not must not hold everything up.
    let mut bounded = std::process::Command::new("/usr/bin/timeout");
    bounded.args(["--signal=KILL", "60", env!("CARGO_BIN_EXE_mcp-auth-proxy")]).args(args).env_clear();
    let output = bounded.envs(env.iter().copied()).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(137), text(output.stdout), text(output.stderr))
}

/// The one line of a start that fails.
fn refusal(args: &[&str], env: &[(&str, &str)]) -> String {
    let (code, _, stderr) = run(args, env);
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("RUST_BACKTRACE") && !stderr.contains("panicked"), "{stderr}");
    stderr
}

#[test]
fn help_version_man_and_completions_are_printed() {
    for (args, expected) in [
        (&["--help"][..], "--external-url"),
        (&["-h"], "--password"),
        (&["help"], "EXTERNAL_URL"),
        (&["--version"], "mcp-auth-proxy 0."),
        (&["man"], ".SH"),
        (&["completions", "bash"], "complete -F"),
        (&["completions", "zsh"], "#compdef"),
        (&["completions", "fish"], "complete -c"),
    ] {
        let (code, stdout, stderr) = run(args, &[]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        assert!(stdout.contains(expected), "{args:?}: {stdout}");
    }
}

#[test]
fn each_start_that_fails_says_why_in_one_line() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let good = ["--password", "x", "--listen", "127.0.0.1:0", "--data-path", &data, "http://127.0.0.1:1"];
    let with = |more: &[&str]| refusal(&[more, &good].concat(), &[]);
    let without = |name: &str| {
        let at = good.iter().position(|a| *a == name).unwrap();
        refusal(&[&good[..at], &good[at + 2..]].concat(), &[])
    };

    assert!(without("--password").contains("--password (PASSWORD"));
    assert!(refusal(&good[..6], &[]).contains("no upstream server"));
    assert!(with(&["--external-url", "https://a/b"]).contains("--external-url (EXTERNAL_URL)"));
    assert!(with(&["--pasword", "x"]).contains("did you mean --password;"));
    assert!(
        refusal(&[&good[..2], &["--listen", &taken_port, "--data-path", &data, "http://h"]].concat(), &[])
            .contains("in use")
    );
    assert!(refusal(&["--password", "x", "ftp://h"], &[]).contains("http://"));
    assert!(refusal(&["--password", "x", "http://localhost:99999"], &[]).contains("has a bad port"));
    assert!(refusal(&["--password", "", "http://h"], &[]).contains("--password (PASSWORD): it is empty"));
    assert!(refusal(&["hash-password", "foo"], &[]).contains("standard input"));
    // Whoever has the port, it is taken.
    let _held = TcpListener::bind("127.0.0.1:8080");
    let usual = ["--password", "x", "--listen", "127.0.0.1:8080", "--data-path", &data, "http://h"];
    assert!(refusal(&usual, &[]).contains("--external-url http://localhost:8081"));
    assert!(
        refusal(&["--data-path", "/proc/nowhere/data", "--password", "x", "http://h"], &[])
            .contains("--data-path (DATA_PATH)")
    );
    assert!(refusal(&["http://h"], &[("PASSWORD_FILE", "/nowhere")]).contains("PASSWORD_FILE"));
    let long = "x".repeat(73);
    assert!(refusal(&["http://h"], &[("PASSWORD", &long)]).contains("72"));
    assert!(refusal(&good, &[("AUTH_HMAC_SECRET", "short")]).contains("AUTH_HMAC_SECRET"));
}

#[test]
fn a_data_directory_or_secret_that_others_can_read_is_refused() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let args = ["--password", "x", "--listen", "127.0.0.1:0", "--data-path", &data, "http://127.0.0.1:1"];
    std::fs::create_dir(&data).unwrap();
    std::fs::write(scratch.path("data/state.redb"), "").unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o755)).unwrap();
    let message = refusal(&args, &[]);
    std::fs::remove_file(scratch.path("data/state.redb")).unwrap();
    assert!(message.contains("can be read by other users") && message.contains("chmod 700"), "{message}");

    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
    let secret = format!("{data}/secret");
    std::fs::write(&secret, "x").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(refusal(&args, &[]).contains("chmod 600"));
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(refusal(&args, &[]).contains("not 32 bytes"));
    std::fs::remove_file(&secret).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    symlink("/nowhere/at/all", &data).unwrap();
    assert!(refusal(&args, &[]).contains("--data-path (DATA_PATH)"));
}

#[test]
fn what_the_start_makes_is_private() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    for (name, mode) in [("data", 0o700), ("data/secret", 0o600), ("data/state.redb", 0o600)] {
        let found = std::fs::metadata(proxy.data.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn a_second_process_on_the_same_data_directory_says_so_and_stops() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let data = proxy.data.path("data");
    let message =
        refusal(&["--password", "x", "--listen", "127.0.0.1:0", "--data-path", &data, "http://127.0.0.1:1"], &[]);
    assert!(message.contains("another mcp-auth-proxy is using"), "{message}");
    assert_eq!(proxy.send("GET", "/.well-known/jwks.json", &[], b"").status, 200);
}

#[test]
fn an_empty_listen_address_takes_ipv4_and_ipv6() {
    let (scratch, port) = (Arc::new(Scratch::new()), free_port());
    let mut with_env = command();
    // The environment of an installation of sigbit/mcp-auth-proxy.
    with_env
        .env("LISTEN", format!(":{port}"))
        .env("EXTERNAL_URL", format!("http://localhost:{port}"))
        .env("DATA_PATH", scratch.path("data"))
        .env("PASSWORD", "x")
        .env("PROXY_BEARER_TOKEN", "")
        .env("MODE", "production")
        .arg("http://127.0.0.1:1");
    let proxy = Proxy::spawn(with_env, port, scratch);
    let mut tried = 0;
    for host in ["127.0.0.1", "::1"] {
        match std::net::TcpStream::connect((host, port)) {
            Ok(_) => tried += 1,
            Err(e) => assert_eq!(host, "::1", "{e}"),
        }
    }
    assert!(tried >= 1);
    proxy.has_logged(&format!("give this URL to MCP clients: http://localhost:{port}/mcp"));
}

#[test]
fn hash_password_reads_a_pipe_and_its_hash_signs_in() {
    let hash = |password: &str| {
        let mut child = command()
            .arg("hash-password")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = hash("geheim\n");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(bcrypt::verify("geheim", text.trim()).unwrap(), "{text}");
    assert_eq!(hash("\n").status.code(), Some(2));
    assert_eq!(hash(&"x".repeat(73)).status.code(), Some(2));
}

#[test]
fn the_demo_shows_how_to_connect_and_keeps_nothing() {
    let (scratch, port) = (Scratch::new(), free_port());
    let mut child = command()
        .args(["demo", "--listen", &format!("127.0.0.1:{port}")])
        .current_dir(&scratch.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    crate::support::eventually("the demo listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.stdout.take().map(std::io::read_to_string).unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(output.contains(&format!("http://localhost:{port}/mcp")) && output.contains("Password"), "{output}");
    for client in ["Claude Code", "Cursor", "VS Code", "Gemini CLI"] {
        assert!(output.contains(client), "{client}");
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "the demo left something behind");
}

#[test]
fn a_port_below_1024_without_the_right_is_explained() {
    let scratch = Scratch::new();
    let mut own = arguments(&scratch, 81);
    own[1] = "127.0.0.1:81".into();
    own.push("http://127.0.0.1:1".into());
    // Root has the right unless it gives it away; where the system lets everybody have such ports, it must be a
    // network of our own that does not.
    let mut shell = std::process::Command::new("sh");
    let give_away = "exec setpriv --bounding-set=-net_bind_service --inh-caps=-net_bind_service \"$@\"";
    let script = format!(
        "if [ \"$(id -u)\" != 0 ]; then exec \"$@\"; fi\n\
         if [ \"$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)\" -gt 81 ]; then {give_away}; fi\n\
         exec unshare -n sh -c 'echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start; {}' sh \"$@\"",
        give_away
    );
    let output = shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_mcp-auth-proxy")]).args(own).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("setcap cap_net_bind_service") && stderr.lines().count() == 1, "{stderr}");
}

/// The rights of each thread of a process, and those that programs which it starts can have.
fn rights(pid: u32) -> Vec<(u64, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |status: &str, name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    // A thread may end between the list and its own entry, which is gone then.
    let read = |path: std::path::PathBuf| match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(3) => None,
        read => Some(read.unwrap()),
    };
    let all: Vec<_> = tasks
        .filter_map(|task| read(task.unwrap().path().join("status")))
        .map(|status| (of(&status, "CapEff:") | of(&status, "CapPrm:"), of(&status, "CapBnd:")))
        .collect();
    assert!(!all.is_empty());
    all
}

/// For root, as which CI runs.
#[test]
fn roots_rights_are_given_up_but_for_those_that_are_needed() {
    const OVERRIDE: u64 = 1 << 1;
    const READ: u64 = 1 << 2;
    const CHILDREN: u64 = 1 << 5 | 1 << 6 | 1 << 7;
    let only = |proxy: &Proxy, wanted: u64| {
        let found = rights(proxy.pid());
        assert!(found.iter().all(|r| *r == (wanted, wanted)), "{wanted:x}: {found:x?}");
    };
    only(&Proxy::start(1, &[]), 0);
    // To connect to another user's socket takes the right to write.
    let (socket, port) = (Arc::new(Scratch::new()), free_port());
    let mut line = command();
    line.args(arguments(&socket, port)).arg(format!("unix:{}", socket.path("mcp.sock")));
    only(&Proxy::spawn(line, port, socket), OVERRIDE);

    let data = Arc::new(Scratch::new());
    std::fs::write(data.path("list"), "ada\n").unwrap();
    let port = free_port();
    // Files that are read again; and children of another user.
    let start = |mut line: std::process::Command| {
        line.args(arguments(&data, port)).args(["--stdio-user", "65534:65534", "--", "/bin/cat"]);
        line.env("GITHUB_ALLOWED_USERS_FILE", data.path("list"));
        line.envs([("GITHUB_CLIENT_ID", "id"), ("GITHUB_CLIENT_SECRET", "secret")]);
        Proxy::spawn(line, port, data.clone())
    };
    only(&start(command()), READ | CHILDREN);

    // In a container, which has fewer to begin with.
    let within = |rights: &str| {
        let mut line = std::process::Command::new("/usr/bin/setpriv");
        line.env_clear().stdin(Stdio::null()).args(["--bounding-set", rights, "--inh-caps=-all"]);
        line.arg(env!("CARGO_BIN_EXE_mcp-auth-proxy"));
        line
    };
    let usual = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
    only(&start(within(usual)), OVERRIDE | CHILDREN);
    // One that may not even give rights up for good keeps none for itself.
    let proxy = start(within("-all,+net_bind_service"));
    assert!(rights(proxy.pid()).iter().all(|r| r.0 == 0), "{:x?}", rights(proxy.pid()));
    drop(proxy);

    // Data that another user owns could be replaced by that user.
    for path in [data.path("data"), data.path("data/secret"), data.path("data/state.redb")] {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        let output = command().args(arguments(&data, port)).arg("http://127.0.0.1:1").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("belongs to another user (id 65534)") && text.contains("chown -R 0"), "{path}: {text}");
        assert_eq!(output.status.code(), Some(2));
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    }
    // One that is empty, as somebody has made it for a container, is taken over.
    let fresh = Arc::new(Scratch::new());
    std::fs::create_dir(fresh.path("data")).unwrap();
    std::os::unix::fs::chown(fresh.path("data"), Some(65534), Some(65534)).unwrap();
    let _proxy = Proxy::start_in(fresh.clone(), free_port(), 1, &[]);
    let found = std::fs::metadata(fresh.path("data")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700));
}

#[test]
fn a_state_that_is_damaged_is_told_with_a_way_on() {
    let proxy = Proxy::start(1, &[]);
    let data = proxy.data.clone();
    drop(proxy);
    let file = data.path("data/state.redb");
    std::fs::write(&file, vec![7; 70_000]).unwrap();
    let told = refusal(&["--password", "x", "--listen", "127.0.0.1:0", "-d", &data.path("data"), "http://h"], &[]);
    assert!(told.contains(&file) && told.contains("restore it from a backup, or move it away"), "{told}");
}

#[test]
fn a_healthcheck_asks_the_running_proxy() {
    let check = |data: &Scratch| {
        let output = command().args(["healthcheck", "--data-path", &data.path("data")]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let none = check(&Scratch::new());
    assert!(none.0 == 1 && none.1.contains("--data-path (DATA_PATH)"), "{none:?}");
    let proxy = Proxy::start(1, &[]);
    assert_eq!(check(&proxy.data), (0, String::new()));
    proxy.signal("STOP");
    let stopped = check(&proxy.data);
    assert!(stopped.0 == 1 && stopped.1.contains("no answer in time"), "{stopped:?}");
    proxy.signal("CONT");
    assert_eq!(check(&proxy.data).0, 0);
    let data = proxy.data.clone();
    drop(proxy);
    let dead = check(&data);
    assert!(dead.0 == 1 && dead.1.contains("no connection"), "{dead:?}");
}

#[test]
fn a_directory_that_a_container_engine_or_sigbits_program_has_made_is_closed_to_others() {
    let upstream = FakeUpstream::ok();
    let data = Arc::new(Scratch::new());
    let directory = data.path("data");
    let open = |mode| std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
    // Empty, as `docker run -v ./data:/data` makes it.
    std::fs::create_dir(&directory).unwrap();
    open(0o755);
    let proxy = Proxy::start_in(data.clone(), free_port(), upstream.port, &[]);
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    drop(proxy);
    // With what sigbit/mcp-auth-proxy keeps there, whose secret goes on to be used.
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::create_dir(&directory).unwrap();
    std::fs::create_dir(data.path("data/certs")).unwrap();
    for (name, content) in [("secret", [7; 32]), ("private_key.pem", [b'x'; 32]), ("db", [0; 32])] {
        std::fs::write(data.path(&format!("data/{name}")), content).unwrap();
        std::fs::set_permissions(data.path(&format!("data/{name}")), PermissionsExt::from_mode(0o600)).unwrap();
    }
    open(0o755);
    let port = free_port();
    let proxy = Proxy::start_in(data.clone(), port, upstream.port, &[]);
    let tokens = Client::public(&proxy).tokens();
    let proxy = proxy.crash_and_restart(upstream.port, &[]);
    assert_eq!(call(&proxy, &tokens.access).status, 200);
    assert_eq!(std::fs::read(data.path("data/secret")).unwrap(), [7; 32]);
    drop(proxy);
    // Others' things, or a directory that others may write, stay as they are.
    let args = ["--password", "x", "--listen", "127.0.0.1:0", "--data-path", &directory, "http://127.0.0.1:1"];
    for mode in [0o755, 0o1777, 0o777] {
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        if mode == 0o755 {
            std::fs::write(data.path("data/diary"), "").unwrap();
        }
        open(mode);
        assert!(refusal(&args, &[]).contains("chmod 700"));
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, mode);
    }
}
