"""A server over stdio that does what its requests tell it to, the unusual included.

CHILD_VERSION   protocol revision that it agrees to, instead of the client's
CHILD_MODERN    knows revision 2026-07-28 too
CHILD_CRASH     a file: while it exists, the server ends at once
CHILD_SALT      a file whose content is part of the answer to initialize
CHILD_DELAY_FILE  a file with the seconds before it answers initialize
CHILD_REFUSE    a file: while it exists, initialize is answered with an error
CHILD_SILENT    does not answer what it does not know
CHILD_STUBBORN  ends neither with its stdin nor with SIGTERM
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

lock = threading.Lock()
history = []
asked = {}
listening = {}
flooded = []


def write(line):
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def send(message):
    write(json.dumps({"jsonrpc": "2.0", **message}))


def answer(id, result):
    send({"id": id, "result": result})


def fail(id, code, text):
    send({"id": id, "error": {"code": code, "message": text}})


def content(variable):
    path = os.environ.get(variable)
    return open(path).read() if path and os.path.exists(path) else ""


def initialize(id, params):
    if content("CHILD_REFUSE"):
        return fail(id, -32000, "not today")
    time.sleep(float(content("CHILD_DELAY_FILE") or "0"))
    version = os.environ.get("CHILD_VERSION", params["protocolVersion"])
    info = {"name": "scripted", "version": "1" + content("CHILD_SALT")}
    answer(id, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})


def request(id, method, params):
    if method == "initialize":
        initialize(id, params)
    elif method == "server/discover" and "CHILD_MODERN" in os.environ:
        answer(id, {"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 1, "cacheScope": "private"})
    elif method == "echo":
        answer(id, params)
    elif method == "raw":
        # The test writes the line itself; @ID@ stands for the id of the request.
        for line in params["lines"]:
            write(line.replace("@ID@", json.dumps(id)))
    elif method == "big":
        write('{"jsonrpc":"2.0","id":%s,"result":{"text":"%s"}}' % (json.dumps(id), "x" * params["bytes"]))
    elif method == "exit":
        print("last words of the server", file=sys.stderr, flush=True)
        os._exit(params["code"])
    elif method == "sleep":
        threading.Timer(params["seconds"], answer, (id, {"slept": True})).start()
    elif method == "never":
        pass
    elif method == "pid":
        answer(id, {"pid": os.getpid()})
    elif method == "environment":
        answer(id, dict(os.environ))
    elif method == "whoami":
        answer(id, {"uid": os.getuid(), "gid": os.getgid(), "nice": os.nice(0), "parent": os.getppid()})
    elif method == "limits":
        import resource

        answer(id, {"data": resource.getrlimit(resource.RLIMIT_DATA)[0], "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]})
    elif method == "read":
        try:
            answer(id, {"content": open(params["path"], "rb").read().decode("latin-1")})
        except OSError as e:
            fail(id, -32000, str(e))
    elif method == "history":
        answer(id, {"lines": history})
    elif method == "ask":
        own = params.get("id", "question %s" % id)
        asked[own] = id
        send({"id": own, "method": params.get("method", "sampling/createMessage"), "params": {}})
    elif method == "progress":
        token = params["_meta"]["progressToken"]
        for step in range(params["steps"]):
            send({"method": "notifications/progress", "params": {"progressToken": token, "progress": step}})
        answer(id, {"token": token})
    elif method == "flood":
        token, rest = params["_meta"]["progressToken"], params["bytes"]

        def flood():
            for _ in range(rest >> 16):
                send({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "message": "x" * (1 << 16)}})
            flooded.append(True)
            answer(id, {})

        threading.Thread(target=flood, daemon=True).start()
    elif method == "flooded":
        answer(id, {"done": bool(flooded)})
    elif method == "notify":
        message = {"method": params["method"], "params": params.get("params", {})}
        if "after" in params:
            threading.Timer(params["after"], send, (message,)).start()
        else:
            send(message)
        answer(id, {})
    elif method == "grandchild":
        process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
        answer(id, {"pid": process.pid})
    elif method == "escape":
        # A session of its own, no parent, deaf to what can be ignored, and another of its kind every moment.
        read, write_end = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for ignored in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(ignored, signal.SIG_IGN)
                os.write(write_end, str(os.getpid()).encode())
                os.closerange(0, 100)
                while True:
                    time.sleep(0.01)
                    if params.get("restless") and os.fork() != 0:
                        os._exit(0)
            os._exit(0)
        os.wait()
        answer(id, {"pid": int(os.read(read, 20))})
    elif method == "kill":
        try:
            os.kill(params["pid"], signal.SIGKILL)
            answer(id, {"killed": True})
        except OSError as e:
            fail(id, -32000, str(e))
    elif method == "deaf":
        # Reads nothing any more.
        answer(id, {})
        time.sleep(1000)
    elif method == "subscriptions/listen":
        listening[id] = True
        tag = {"_meta": {"io.modelcontextprotocol/subscriptionId": id}}
        send({"method": "notifications/subscriptions/acknowledged", "params": {**tag, "notifications": {}}})
        send({"method": "notifications/tools/list_changed", "params": tag})
    elif method == "resources/subscribe" and params.get("refuse"):
        fail(id, -32002, "there is no such resource")
    elif method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe", "ping"):
        answer(id, {})
    elif method == "tools/list" and "CHILD_MODERN" in os.environ:
        # Page by page, one tool each.
        page = int(params.get("cursor", "0"))
        tool = {"name": "tool %d" % page, "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}}
        answer(id, {"resultType": "complete", "tools": [tool], **({"nextCursor": str(page + 1)} if page < 2 else {})})
    elif method == "tools/call":
        answer(id, {"resultType": "complete", "content": []})
    elif method == "close stdout":
        sys.stdout.flush()
        os.close(1)
    elif "CHILD_SILENT" not in os.environ:
        fail(id, -32601, "there is no method " + method)


def main():
    if content("CHILD_CRASH"):
        print("it can not work today", file=sys.stderr, flush=True)
        os._exit(3)
    if "CHILD_STUBBORN" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("the server has started", file=sys.stderr, flush=True)
    for line in sys.stdin:
        history.append(line.rstrip("\n"))
        message = json.loads(line)
        if "method" not in message:
            original = asked.pop(message["id"], None)
            if original is not None:
                answer(original, {"answered": message.get("result"), "refused": message.get("error")})
        elif "id" in message:
            request(message["id"], message["method"], message.get("params", {}))
    if "CHILD_STUBBORN" in os.environ:
        time.sleep(1000)
    os._exit(0)


main()
