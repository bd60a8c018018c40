#!/usr/bin/env python3
"""A real Prometheus scrapes real proxies: each panel of the dashboard shows something, each alert can be evaluated.

    python3 tests/deploy/prometheus.py BINARY

The last line counts what was checked.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/load"))
from harness import OAuthClient, Process, free_port  # noqa: E402

PASSWORD = "a password to be watched"
passed = failed = 0


def check(name, is_good, why=""):
    global passed, failed
    if is_good:
        passed += 1
    else:
        failed += 1
        print(f"FAIL  {name}: {why}")


def ran(name, *command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    check(name, done.returncode == 0, done.stdout + done.stderr)


def upstream():
    """An MCP server's outside: it answers everything but /down, where it breaks off."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, data = data.split(b"\r\n\r\n", 1)
                length = int(re.search(rb"content-length: (\d+)", head).group(1))
                while len(data) < length:
                    data += connection.recv(65536)
                data = data[length:]
                if b" /down " in head:
                    return
                body = b'{"jsonrpc":"2.0","id":1,"result":{}}'
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def accept():
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


class World:
    def __init__(self, binary, work):
        self.work, self.binary, self.processes, self.monitored = work, binary, [], []

    def start(self, *more, tls=False):
        port, metrics = free_port(), free_port()
        scheme = "https" if tls else "http"
        data = self.work / f"data-{port}"
        listen = ["--tls-listen", f"127.0.0.1:{port}", "--listen", f"127.0.0.1:{free_port()}"] if tls else ["--listen", f"127.0.0.1:{port}"]
        command = [self.binary, *listen, "--external-url", f"{scheme}://localhost:{port}", "--data-path", str(data), "--password", PASSWORD,
                   "--metrics-listen", f"127.0.0.1:{metrics}", "--no-upstream-check", *more]
        log = open(self.work / f"log-{port}", "wb")
        self.processes.append(Process(command, port, stderr=log, stdout=log))
        self.monitored.append(metrics)
        return port

    def call(self, client, token, method, path="/mcp"):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "x"}})
        request = urllib.request.Request(f"http://127.0.0.1:{client.port}{path}", body.encode(), {
            "Host": f"localhost:{client.port}", "Authorization": f"Bearer {token}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers


def traffic(world, client):
    """What happens in an ordinary second, and what should not happen."""
    tokens = client.authorize()
    old = tokens["refresh_token"]
    for _ in range(3):
        for method in ("tools/list", "tools/call", "prompts/list"):
            world.call(client, tokens["access_token"], method)
        world.call(client, tokens["access_token"], "tools/call", "/down")
        tokens = client.refresh(tokens["refresh_token"])
        world.call(client, tokens["access_token"], "ping")
    # The old refresh token is a thief's.
    status = client.ask("POST", "/.idp/token", urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": old, "client_id": client.client_id}),
                        "application/x-www-form-urlencoded")[0]
    assert status == 400, status
    client.ask("POST", "/.idp/register", "{}", "application/json")
    stranger = OAuthClient(client.port, "wrong")
    stranger.client_id = client.client_id
    try:
        stranger.authorize()
    except RuntimeError:
        pass


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def main():
    binary = sys.argv[1]
    for command in ("prometheus", "promtool", "openssl"):
        if not shutil.which(command):
            sys.exit(f"'{command}' is missing: install the packages prometheus and openssl")
    ran("promtool takes the rules", "promtool", "check", "rules", "deploy/prometheus/alerts.yml")
    ran("each alert fires when it should", "promtool", "test", "rules", "tests/deploy/alerts_test.yml")
    ran("promtool takes the configuration", "promtool", "check", "config", "deploy/prometheus/prometheus.yml")
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    tested = (ROOT / "tests/deploy/alerts_test.yml").read_text()
    runbooks = (ROOT / "docs/runbooks.md").read_text()
    for alert in re.findall(r"alert: (\w+)", rules):
        check(f"{alert} is tested", f"alertname: {alert}\n" in tested)
        check(f"{alert} has a runbook", f"\n## {alert}\n" in runbooks and f"runbooks.md#{alert.lower()}\n" in rules)
    for name in re.findall(r"^## (\w+)$", runbooks, re.M):
        check(f"the runbook {name} is that of an alert", f"alert: {name}\n" in rules)

    work = pathlib.Path(tempfile.mkdtemp(prefix="mcp-auth-proxy-prometheus-"))
    world = World(binary, work)
    prometheus = None
    try:
        ran("a certificate", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(work / "key.pem"), "-out", str(work / "cert.pem"))
        port = world.start("--access-log", str(work / "access.log"), "--audit-log", str(work / "audit.log"), f"http://127.0.0.1:{upstream()}")
        stdio = world.start("--", binary, "stdio-demo")
        world.start("--tls-cert-file", str(work / "cert.pem"), "--tls-key-file", str(work / "key.pem"), "http://127.0.0.1:9", tls=True)
        client, of_stdio = OAuthClient(port, PASSWORD), OAuthClient(stdio, PASSWORD)
        assert client.register("watched") == 201 and of_stdio.register("watched") == 201

        targets = [f"127.0.0.1:{metrics}" for metrics in world.monitored]
        (work / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy/prometheus/alerts.yml")],
            "scrape_configs": [{"job_name": "mcp-auth-proxy", "static_configs": [{"targets": targets}]}],
        }))
        at = free_port()
        log = open(work / "prometheus.log", "wb")
        prometheus = Process(["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/tsdb", f"--web.listen-address=127.0.0.1:{at}"], at,
                             stderr=log, stdout=log, env={**os.environ, "GOMAXPROCS": "2"})

        def query(expression):
            url = f"http://127.0.0.1:{at}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return {"status": "error", "error": error.read().decode()}

        def results(expression):
            return query(expression).get("data", {}).get("result", [])

        session = of_stdio.authorize()["access_token"]
        status, _ = world.call(of_stdio, session, "initialize")
        assert status in (200, 400), status
        deadline = time.monotonic() + 120
        # It accepts connections some time before it answers queries: until its database is open, they get 503.
        while len(results('count_over_time(mcp_auth_proxy_build_info[1m])')) < 3 and time.monotonic() < deadline:
            time.sleep(0.5)
        seen = query('count_over_time(mcp_auth_proxy_build_info[1m])')
        check("three proxies are scraped", len(seen.get("data", {}).get("result", [])) == 3, seen)
        dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
        panels = {(title, expr): expr.replace("$__rate_interval", "30s").replace("$instance", ".*").replace("$server", ".*") for title, expr in expressions(dashboard)}
        empty = dict(panels)
        # Rates need two scrapes with something in between.
        while empty and time.monotonic() < deadline:
            traffic(world, client)
            time.sleep(1)
            empty = {key: expr for key, expr in empty.items() if not results(expr)}
        for (title, expr), asked in panels.items():
            check(f"the panel '{title}' shows something", (title, expr) not in empty, f"{expr}: {query(asked)}")
        for name, expr in re.findall(r"alert: (\w+)\n\s+expr: (.*)", rules):
            answer = query(expr)
            check(f"the alert {name} can be evaluated", answer["status"] == "success", answer)
            for metric in re.findall(r"mcp_auth_proxy_\w+", expr):
                found = query(f"count({metric})")
                check(f"{metric}, which {name} asks for, is there", found.get("data", {}).get("result"), found)
        with urllib.request.urlopen(f"http://127.0.0.1:{at}/api/v1/rules", timeout=30) as answer:
            groups = json.load(answer)["data"]["groups"]
        faulty = [rule["name"] for group in groups for rule in group["rules"] if rule.get("health") == "err"]
        check("Prometheus evaluates the rules", groups and not faulty, faulty)
        reuse = results("sum(mcp_auth_proxy_refresh_token_reuses_total)")
        check("the thief was counted", reuse and float(reuse[0]["value"][1]) >= 1, reuse)
        wrong = results('sum(mcp_auth_proxy_sign_ins_total{result="wrong_password"})')
        check("wrong passwords were counted", wrong and float(wrong[0]["value"][1]) >= 1, wrong)
        # What promtool finds wrong with names and types. It reads the older text format, which has no end mark.
        with urllib.request.urlopen(f"http://127.0.0.1:{world.monitored[0]}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        series = [line for line in text.splitlines() if not line.startswith("#")]
        check("the series are bounded", len(series) < 400, len(series))
    finally:
        for process in [*world.processes, *([prometheus] if prometheus else [])]:
            process.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
