//! Sessions: whose they are, and how they outlive their children.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::proxy::Scratch;
use crate::support::stdio::{McpClient, Published, is_running, servers};
use crate::support::usage::usage;

fn pid(client: &mut McpClient<'_>) -> u64 {
    client.result("pid", json!({}))["pid"].as_u64().unwrap()
}

fn kill(pid: u64) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

fn lines(client: &mut McpClient<'_>) -> Vec<Value> {
    let lines = client.result("history", json!({}))["lines"].clone();
    lines.as_array().unwrap().iter().map(|l| serde_json::from_str(l.as_str().unwrap()).unwrap()).collect()
}

#[test]
fn each_session_has_a_child_and_a_name_of_its_own() {
    let published = Published::start(&[], &[]);
    let (mut a, mut b) = (published.client(), published.client());
    a.initialize();
    b.initialize();
    assert_ne!(a.session, b.session);
    assert_ne!(pid(&mut a), pid(&mut b));
    assert!(a.session.as_ref().unwrap().bytes().all(|c| (0x21..=0x7e).contains(&c)));
}

#[test]
fn a_session_is_of_no_use_to_anyone_else() {
    let published = Published::start(&[], &[]);
    let mut owner = published.client_of("alice", "one");
    owner.initialize();
    let id = owner.session.clone().unwrap();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (user, client) in [("bob", "one"), ("alice", "two"), ("bob", "two")] {
        let mut other = published.client_of(user, client);
        other.session = Some(id.clone());
        assert_eq!(other.post(ping).status, 404, "{user} {client}");
        assert_eq!(other.send("GET", &[], b"").status, 404, "{user} {client}");
        assert_eq!(other.send("DELETE", &[], b"").status, 404, "{user} {client}");
    }
    // Altered anywhere, or another artefact in its place, it is unknown.
    let access = owner.token.clone();
    for forged in [&id[1..], &id[..id.len() - 1], &format!("{id}A"), &id.replacen('.', "A.", 1), access.as_str()] {
        owner.session = Some(forged.into());
        assert_eq!(owner.post(ping).status, 404, "{forged}");
    }
    // And it is no token.
    let mut thief = published.client_of("bob", "one");
    thief.token = id.clone();
    assert_eq!(thief.post(ping).status, 401);
    owner.session = Some(id);
    assert_eq!(owner.post(ping).status, 200);
}

#[test]
fn two_users_never_see_each_others_messages() {
    let published = Published::start(&[], &[]);
    std::thread::scope(|scope| {
        for user in ["alice", "bob"] {
            let published = &published;
            scope.spawn(move || {
                let mut client = published.client_of(user, "c");
                client.initialize();
                let mut general = client.listen(None);
                for n in 0..50 {
                    let text = format!("{user} {n}");
                    let messages = client.messages("progress", json!({"steps": 3, "_meta": {"progressToken": text}}));
                    assert!(
                        messages[..3].iter().all(|m| m["params"]["progressToken"] == text.as_str()),
                        "{messages:?}"
                    );
                    assert_eq!(messages[3]["result"]["token"], text.as_str());
                    let method = json!({"method": "notifications/tools/list_changed", "params": {"of": text}});
                    client.result("notify", method);
                    assert_eq!(general.message().unwrap()["params"]["of"], text.as_str());
                }
                let env = client.result("environment", json!({}));
                assert_eq!((env["MCP_AUTH_USER"].as_str(), env["MCP_AUTH_CLIENT"].as_str()), (Some(user), Some("c")));
            });
        }
    });
}

/// Does what is remembered of a session, ends its child by `end`, and sees that another goes on as the first would.
fn goes_on_after(client: &mut McpClient<'_>, end: impl FnOnce(&mut McpClient<'_>)) {
    client.result("logging/setLevel", json!({"level": "debug"}));
    client.result("logging/setLevel", json!({"level": "error"}));
    client.result("resources/subscribe", json!({"uri": "a:1"}));
    client.result("resources/subscribe", json!({"uri": "a:2"}));
    client.result("resources/unsubscribe", json!({"uri": "a:1"}));
    let before = pid(client);
    end(client);
    assert_ne!(pid(client), before);
    let told = lines(client);
    let methods: Vec<_> = told.iter().map(|l| l["method"].as_str().unwrap()).collect();
    assert_eq!(
        methods,
        ["initialize", "notifications/initialized", "logging/setLevel", "resources/subscribe", "pid", "history"]
    );
    assert_eq!(told[0], serde_json::from_str::<Value>(&client.initialize_request()).unwrap());
    assert_eq!((&told[2]["params"]["level"], &told[3]["params"]["uri"]), (&json!("error"), &json!("a:2")));
    assert_ne!(told[2]["id"], told[3]["id"]);
}

#[test]
fn a_session_outlives_its_child() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    goes_on_after(&mut client, |client| {
        let victim = pid(client);
        // In mid-call: the request gets an error that says so.
        let mut stream = client.stream("never", json!({}));
        kill(victim);
        let error = stream.message().unwrap()["error"]["message"].to_string();
        assert!(error.contains("ended while it worked on this request"), "{error}");
        assert_eq!(stream.message(), None);
    });
    published.proxy.has_logged("the MCP server exited unexpectedly");
}

#[test]
fn a_session_outlives_the_proxy() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.version = "2025-11-25";
    client.initialize();
    client.result("logging/setLevel", json!({"level": "error"}));
    let id = client.session.clone();
    let general = client.listen(None).next().unwrap().id;
    let in_flight = client.stream("never", json!({})).next().unwrap().id;
    let published = published.restart("KILL");
    let mut client = published.client();
    client.version = "2025-11-25";
    client.session = id;
    // Who waits for an answer learns that there will be none, and whoever listens goes on listening.
    let mut lost = client.listen(in_flight.as_deref());
    let error = lost.message().unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("was lost") && error["id"] == 3, "{error}");
    assert_eq!(lost.message(), None);
    assert_eq!(client.listen(general.as_deref()).head.status, 200);
    let told = lines(&mut client);
    let methods: Vec<_> = told.iter().map(|l| l["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["initialize", "notifications/initialized", "logging/setLevel", "history"]);
    // A restart in order keeps it as well.
    let id = client.session.clone();
    let published = published.restart("TERM");
    let mut client = published.client();
    client.session = id;
    assert_eq!(client.result("echo", json!({"x": 1}))["x"], 1);
    // What was ended stays ended.
    assert_eq!(client.send("DELETE", &[], b"").status, 200);
    let id = client.session.clone();
    let published = published.restart("KILL");
    let mut client = published.client();
    client.session = id;
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 404);
}

#[test]
fn a_server_that_has_changed_ends_the_session() {
    let salt = Scratch::new();
    let file = salt.path("salt");
    let published = Published::start(&[], &[("CHILD_SALT", &file)]);
    let mut client = published.client();
    client.initialize();
    let victim = pid(&mut client);
    std::fs::write(&file, " and more").unwrap();
    kill(victim);
    eventually("the child's end is noticed", || published.proxy.log().contains("exited unexpectedly"));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(client.post(ping).status, 404);
    assert_eq!(client.post(ping).status, 404);
    client.session = None;
    assert_eq!(client.initialize()["result"]["serverInfo"]["version"], "1 and more");
}

#[test]
fn an_idle_session_is_parked_and_taken_up_again() {
    let published = Published::start(&["--stdio-idle-timeout", "1s", "--stdio-spare", "0"], &[]);
    let mut client = published.client();
    client.initialize();
    goes_on_after(&mut client, |client| {
        let parked = pid(client);
        eventually("the idle child has ended", || !is_running(parked));
    });
    // While a client listens, the child stays.
    let _general = client.listen(None);
    let heard = pid(&mut client);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(pid(&mut client), heard);
}

#[test]
fn a_request_that_nobody_waits_for_keeps_no_child() {
    let options = ["--stdio-idle-timeout", "1s", "--stdio-max-children", "1", "--stdio-spare", "0"];
    let published = Published::start(&options, &[]);
    let mut client = published.client();
    client.initialize();
    let first = pid(&mut client);
    let stream = client.stream("never", json!({}));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(is_running(first), "while a client waits, the child stays");
    drop(stream);
    eventually("the child is ended", || !is_running(first));
    // There is room for another, of the same user too.
    published.client().initialize();
}

#[test]
fn an_answer_that_nobody_fetched_does_not_keep_a_session() {
    let options = ["--stdio-idle-timeout", "1s", "--stdio-session-lifetime", "5s", "--stdio-spare", "0"];
    let published = Published::start(&options, &[]);
    let mut client = published.client();
    client.initialize();
    let request = client.request("sleep", json!({"seconds": 0.2}));
    drop(client.begin("POST", &[], request.as_bytes()));
    let memory = || published.proxy.log().matches("the MCP server of an idle session was ended").count();
    eventually("the session is parked", || memory() == 1);
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!(client.post(ping).status, 404);
}

#[test]
fn waiting_for_a_child_leaves_no_descriptor_behind() {
    let crash = Scratch::new();
    let file = crash.path("delay");
    let published = Published::start(&["--stdio-spare", "0"], &[("CHILD_DELAY_FILE", &file)]);
    let mut client = published.client();
    client.initialize();
    std::fs::write(&file, "1000").unwrap();
    kill(pid(&mut client));
    eventually("the child's end is noticed", || published.proxy.log().contains("exited unexpectedly"));
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    // The child takes its time to begin; who waits for it leaves.
    drop(client.begin("POST", &[], notification.as_bytes()));
    let started = || published.proxy.log().matches("the server has started").count();
    eventually("the next child is started", || started() == 2);
    let before = usage(published.proxy.pid()).descriptors;
    for _ in 0..100 {
        drop(client.begin("POST", &[], notification.as_bytes()));
    }
    eventually("descriptors are given back", || usage(published.proxy.pid()).descriptors <= before + 12);
}

#[test]
fn a_late_answer_is_not_taken_for_one_to_another_question() {
    let published = Published::start(&["--stdio-spare", "0"], &[]);
    let mut client = published.client();
    client.initialize();
    let mut general = client.listen(None);
    let ask = json!({"id": 0});
    let mut old = client.stream("ask", ask.clone());
    assert_eq!(old.message().unwrap()["id"], 0);
    kill(pid(&mut client));
    // The question is withdrawn, and its dialog may still be answered.
    let cancelled = general.message().unwrap();
    assert_eq!(
        (&cancelled["method"], &cancelled["params"]["requestId"]),
        (&json!("notifications/cancelled"), &json!(0))
    );
    let mut new = client.stream("ask", ask);
    let question = new.message().unwrap();
    assert_ne!(question["id"], 0, "{question}");
    let answer = |id: &Value, what: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"is": what}}).to_string();
    assert_eq!(client.post(&answer(&json!(0), "late")).status, 202);
    assert_eq!(client.post(&answer(&question["id"], "meant")).status, 202);
    assert_eq!(new.message().unwrap()["result"]["answered"]["is"], "meant");
}

#[test]
fn what_does_not_fit_fails_by_itself() {
    let published = Published::start(&["--stdio-buffer", "64KiB", "--stdio-spare", "0"], &[]);
    let mut client = published.client();
    client.initialize();
    let mut running = client.stream("sleep", json!({"seconds": 1}));
    // A message that no child can be sent.
    let long = json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"x": "y".repeat(100_000)}}).to_string();
    assert_eq!(client.post(&long).status, 503);
    let answer = client.call("echo", json!({"x": "y".repeat(100_000)}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("does not read"), "{answer}");
    assert_eq!(running.message().unwrap()["result"]["slept"], true);
    // Likewise while a child is being started.
    kill(pid(&mut client));
    eventually("the child's end is noticed", || published.proxy.log().contains("exited unexpectedly"));
    let answers = std::thread::scope(|scope| {
        let body = |id: u32| {
            json!({"jsonrpc": "2.0", "id": id, "method": "echo", "params": {"x": "y".repeat(40_000)}}).to_string()
        };
        let client = &client;
        let running: Vec<_> = (50..54).map(|id| scope.spawn(move || client.post(&body(id)).status)).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(answers, [200; 4]);
}

#[test]
fn what_a_session_remembers_is_bounded() {
    let published = Published::start(&["--stdio-spare", "0"], &[]);
    let mut client = published.client();
    client.initialize();
    let long = "x".repeat(2_000);
    for body in [
        json!({"jsonrpc": "2.0", "id": long, "method": "ping"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {"progressToken": long}}}),
    ] {
        assert_eq!(client.post(&body.to_string()).status, 400);
    }
    // Too long to be kept, it is not there for the next child; what is kept is.
    client.result("resources/subscribe", json!({"uri": "x".repeat(1 << 20)}));
    client.result("resources/subscribe", json!({"uri": "a:1"}));
    kill(pid(&mut client));
    eventually("the child's end is noticed", || published.proxy.log().contains("exited unexpectedly"));
    let told = lines(&mut client);
    let uris: Vec<_> = told.iter().filter_map(|l| l["params"]["uri"].as_str()).collect();
    assert_eq!(uris, ["a:1"]);
    let size = std::fs::metadata(published.proxy.data.path("data/state.redb")).unwrap().len();
    assert!(size < 8 << 20, "{size}");
}

#[test]
fn at_the_cap_the_longest_idle_session_is_parked() {
    let published = Published::start(&["--stdio-max-children", "3", "--stdio-spare", "0"], &[]);
    let mut clients: Vec<_> = (0..3).map(|n| published.client_of(&format!("user {n}"), "c")).collect();
    let pids: Vec<u64> = clients
        .iter_mut()
        .map(|c| {
            c.initialize();
            pid(c)
        })
        .collect();
    // The first has been used since; the second is at work.
    clients[0].result("echo", json!({}));
    let busy = clients[1].stream("never", json!({}));
    let mut fourth = published.client_of("user 3", "c");
    fourth.initialize();
    eventually("the third is parked", || !is_running(pids[2]));
    assert!(is_running(pids[0]) && is_running(pids[1]));
    // It comes back, at the cost of the next.
    assert_ne!(pid(&mut clients[2]), pids[2]);
    eventually("the first is parked", || !is_running(pids[0]));
    assert!(is_running(pids[1]));
    // When all are at work, there is an answer that says so.
    let more: Vec<_> = [&mut clients[2], &mut fourth].into_iter().map(|c| c.stream("never", json!({}))).collect();
    let reply = published.client_of("user 4", "c");
    let answer = reply.post(&reply.initialize_request()).json();
    assert!(answer["error"]["message"].as_str().unwrap().contains("is reached and all are busy"), "{answer}");
    published.proxy.has_logged("(--stdio-max-children, STDIO_MAX_CHILDREN)");
    drop((busy, more));
}

#[test]
fn a_user_has_so_many_sessions_and_not_more() {
    let published = Published::start(&["--stdio-max-sessions-per-user", "2", "--stdio-spare", "0"], &[]);
    let mut other = published.client_of("other", "c");
    other.initialize();
    let mut clients: Vec<_> = (0..3).map(|_| published.client()).collect();
    for client in &mut clients {
        client.initialize();
        // Last uses are told apart by the second.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
    }
    let ping = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;
    let statuses: Vec<u16> = clients.iter().map(|c| c.post(ping).status).collect();
    assert_eq!(statuses, [404, 200, 200]);
    assert_eq!(other.post(ping).status, 200);
}

#[test]
fn a_server_that_crashes_at_once_is_tried_more_and_more_rarely() {
    let crash = Scratch::new();
    let file = crash.path("crash");
    std::fs::write(&file, "yes").unwrap();
    let published = Published::start(&["--stdio-spare", "0"], &[("CHILD_CRASH", &file)]);
    let mut client = published.client();
    let answer = client.post(&client.initialize_request());
    // JSON-RPC says so; what the server said is the operator's alone.
    assert_eq!(answer.status, 200);
    assert!(answer.header("mcp-session-id").is_none());
    assert!(
        answer.json()["error"]["message"].as_str().unwrap().contains("operator finds the reason"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("can not work"));
    published.proxy.has_logged("it can not work today");

    std::fs::remove_file(&file).unwrap();
    client.initialize();
    let victim = pid(&mut client);
    std::fs::write(&file, "yes").unwrap();
    kill(victim);
    eventually("the client is told to wait", || {
        let answer = client.call("echo", json!({}));
        answer["error"]["message"].as_str().is_some_and(|m| m.contains("next attempt is in"))
    });
    let starts = published.proxy.log().matches("it can not work today").count();
    for _ in 0..20 {
        client.call("echo", json!({}));
    }
    assert!(published.proxy.log().matches("it can not work today").count() <= starts + 2);
    std::fs::remove_file(&file).unwrap();
    eventually("it goes on", || client.call("echo", json!({"x": 1}))["result"]["x"] == 1);
}

#[test]
fn a_spare_is_ready_for_the_next_session_and_for_nobody_else() {
    let marker = Scratch::new().path("");
    let published = Published::start(&[], &[("MARKER", &marker)]);
    let count = || published.proxy.log().matches("a spare MCP server is ready").count();
    // One at the start, which fetches what there is to fetch; one at the consent, before the client has its token.
    let of_consent = || {
        let is_for = |pid: &u64| {
            let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&env).contains("MCP_AUTH_USER=password\0")
        };
        servers(&marker).into_iter().find(is_for)
    };
    // While a process changes into another its environment is not to be seen.
    let mut spare = None;
    eventually("the spare of who has consented is ready", || {
        spare = of_consent();
        count() == 2 && spare.is_some()
    });
    let spare = spare.unwrap();
    let mut consented = published.client();
    consented.initialize();
    assert_eq!(pid(&mut consented), spare);
    assert_eq!(consented.result("environment", json!({}))["MCP_AUTH_USER"], "password");
    eventually("there is another", || count() == 3);
    let mut second = published.client_of("alice", "c");
    second.initialize();
    assert_eq!(second.result("environment", json!({}))["MCP_AUTH_USER"], "alice");
    let mut third = published.client_of("bob", "c");
    third.initialize();
    assert_eq!(third.result("environment", json!({}))["MCP_AUTH_USER"], "bob");
    eventually("each session is followed by a spare", || count() == 5);
}

#[test]
fn at_the_cap_each_newcomer_gets_room_of_its_own() {
    // Children take their time to end, so that newcomers have to wait for them together.
    let options = ["--stdio-max-children", "4", "--stdio-spare", "0"];
    let published = Published::start(&options, &[("CHILD_STUBBORN", "1")]);
    let mut old: Vec<_> = (0..4).map(|n| published.client_of(&format!("old {n}"), "c")).collect();
    old.iter_mut().for_each(|c| drop(c.initialize()));
    std::thread::scope(|scope| {
        for n in 0..2 {
            let published = &published;
            scope.spawn(move || published.client_of(&format!("new {n}"), "c").initialize());
        }
    });
    // Two had to go for two who came, and not more.
    assert_eq!(published.proxy.log().matches("the MCP server of an idle session was ended").count(), 2);
}

#[test]
fn who_has_the_most_gives_one_to_who_has_none() {
    let published = Published::start(&["--stdio-max-children", "3", "--stdio-spare", "0"], &[]);
    let mut greedy: Vec<_> = (0..3).map(|_| published.client_of("greedy", "c")).collect();
    let mut streams: Vec<_> = greedy
        .iter_mut()
        .map(|c| {
            c.initialize();
            c.stream("never", json!({}))
        })
        .collect();
    let mut modest = published.client_of("modest", "c");
    modest.initialize();
    let error = streams[0].message().unwrap()["error"]["message"].to_string();
    assert!(error.contains("free a slot for another user"), "{error}");
    published.proxy.has_logged("one of the user who has the most is ended");
    // Two against one is fair.
    let busy = modest.stream("never", json!({}));
    let another = published.client_of("modest", "d");
    let answer = another.post(&another.initialize_request()).json();
    assert!(answer["error"]["message"].as_str().unwrap().contains("is reached and all are busy"), "{answer}");
    drop((busy, streams));
}

#[test]
fn two_hundred_sessions_leave_nothing_behind() {
    let published = Published::start(&["--stdio-spare", "0"], &[]);
    let round = |sessions: usize| {
        let work = |n: usize| {
            let mut client = published.client_of(&format!("user {n}"), "c");
            client.initialize();
            assert_eq!(client.result("echo", json!({"n": n}))["n"], n);
            let general = client.listen(None);
            // Half of them say goodbye.
            if n.is_multiple_of(2) {
                assert_eq!(client.send("DELETE", &[], b"").status, 200);
            }
            drop(general);
        };
        std::thread::scope(|scope| {
            for lane in 0..4 {
                scope.spawn(move || (0..sessions / 4).for_each(|n| work(4 * n + lane)));
            }
        });
    };
    // What is needed once is there after some.
    round(40);
    let own = children_of(published.proxy.pid());
    let before = usage(published.proxy.pid());
    round(200);
    eventually("descriptors and threads are given back", || {
        let now = usage(published.proxy.pid());
        now.descriptors <= before.descriptors + 12 && now.threads <= before.threads + 12
    });
    // Those who did not say goodbye are bounded by the cap.
    assert!(children_of(published.proxy.pid()) <= own.max(17), "{own}");
    let now = usage(published.proxy.pid());
    assert!(now.memory <= before.memory + (4 << 20), "{now:?}, before {before:?}");
}

fn children_of(pid: u32) -> usize {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().count()
}
