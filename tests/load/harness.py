"""What the bench and the soak have in common: servers as processes, and a client that gets its tokens."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

REDIRECT = "http://127.0.0.1:5000/callback"
FORM = "application/x-www-form-urlencoded"


def need(command, package):
    if shutil.which(command):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", package], env=env, stdout=subprocess.DEVNULL)
    if not shutil.which(command):
        sys.exit(f"'{command}' is missing: install the package {package} (Debian: apt-get install {package})")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(2000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.005)
    sys.exit(f"nothing listens on port {port}")


class Process:
    """A server with its children, pinned to one core if one is given."""

    def __init__(self, command, port, cpu=None, **options):
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        self.child = subprocess.Popen([*pinned, *command], stdin=subprocess.DEVNULL, **options)
        self.port = port
        wait_for(port)

    def pids(self):
        children = pathlib.Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return [self.child.pid, *map(int, children)]

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Resident bytes."""
        total = 0
        for pid in self.pids():
            found = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
            total += int(found.group(1)) << 10
        return total

    def threads(self):
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids())

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(5)
        self.child.kill()
        self.child.wait()


class OAuthClient:
    """A client and the browser of its user, at the proxy on one port."""

    def __init__(self, port, password, tls=None):
        self.port, self.password, self.tls, self.cookies, self.client_id = port, password, tls, {}, None

    def ask(self, method, path, body=None, content_type=None):
        """Status, fields and text of an answer."""
        scheme = "https" if self.tls else "http"
        if self.tls:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=30, context=self.tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": f"localhost:{self.port}", "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if content_type:
            headers |= {"Content-Type": content_type, "Origin": f"{scheme}://localhost:{self.port}"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        for value in answer.headers.get_all("Set-Cookie") or []:
            name, rest = value.split("=", 1)
            self.cookies[name] = rest.split(";")[0]
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, text

    def register(self, name):
        """Registers itself; the status."""
        metadata = {"redirect_uris": [REDIRECT], "client_name": name, "token_endpoint_auth_method": "none"}
        status, _, text = self.ask("POST", "/.idp/register", json.dumps(metadata), "application/json")
        if status == 201:
            self.client_id = json.loads(text)["client_id"]
        return status

    def authorize(self, resource=None):
        """The token response, once the user has signed in and consented."""
        verifier = secrets.token_urlsafe(40)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {"response_type": "code", "client_id": self.client_id, "redirect_uri": REDIRECT, "state": "s", "code_challenge": challenge, "code_challenge_method": "S256"}
        if resource:
            query["resource"] = resource
        page = self.ask("GET", "/.idp/auth?" + urllib.parse.urlencode(query))[2]
        request = re.search(r'name="request" value="([^"]+)"', page).group(1)
        status, headers, page = self.ask("POST", "/.auth/login", urllib.parse.urlencode({"request": request, "password": self.password, "decision": "allow"}), FORM)
        location = headers.get("Location")
        if not location:
            raise RuntimeError(f"the sign-in failed: {status} {page[:300]}")
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)["code"][0]
        return self.token({"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier})

    def refresh(self, refresh_token):
        """The token response to a refresh."""
        return self.token({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def token(self, fields):
        status, _, text = self.ask("POST", "/.idp/token", urllib.parse.urlencode({**fields, "client_id": self.client_id}), FORM)
        if status != 200:
            raise RuntimeError(f"the token endpoint answered {status}: {text[:300]}")
        return json.loads(text)

    def revoke(self, token):
        """Revokes a token; the status."""
        return self.ask("POST", "/.idp/revoke", urllib.parse.urlencode({"token": token, "client_id": self.client_id}), FORM)[0]
