// The configurations of deploy/ for reverse proxies, each in the real program in front of the proxy: a sign-in, a session and a stream go through,
// and doctor finds that nothing is held back or taken away. Run in a network namespace that belongs to nobody else:
//   unshare --net --mount node in_front.mjs BINARY REPOSITORY
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runCases, start, until } from "./harness.mjs";
import { URL_TOP, at, build, certificate, listens, stopOthers, tearDown } from "./small_internet.mjs";
import { DEMO, isReady, stopped, type } from "./typing.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [binary, repository, only = ""] = process.argv.slice(2);
const PASSWORD = "changeme";

// What the first lines of a configuration say how to start the proxy.
function proxy(text) {
  const line = /#\s+(mcp-auth-proxy --external-url .*) …/.exec(text)[1];
  return type(binary, `${line} -- mcp-auth-proxy stdio-demo`, at(""), { PASSWORD, DATA_PATH: at("data") });
}

function pem() {
  certificate("mcp.example.com");
  mkdirSync(at("ssl"), { recursive: true });
  const [chain, key] = ["pem", "key"].map((kind) => readFileSync(at(`mcp.example.com.${kind}`), "utf8"));
  writeFileSync(at("ssl/fullchain.pem"), chain);
  writeFileSync(at("ssl/privkey.pem"), key);
  writeFileSync(at("ssl/both.pem"), chain + key);
}

async function passes(path, program, roots) {
  const text = readFileSync(join(repository, path), "utf8");
  const behind = proxy(text);
  await isReady(behind);
  const front = program(text);
  await until(`${path} listens`, () => {
    assert.equal(front.child.exitCode, null, front.stderr + front.stdout);
    return listens(443);
  });
  // Caddy needs a moment for its certificate.
  await until(`${path} answers`, () => fetch(`${URL_TOP}/.idp/healthz`).then((reply) => reply.ok, () => false));
  await typescriptFlow({ url: `${URL_TOP}/mcp`, password: PASSWORD, tools: DEMO });
  const doctor = spawnSync(binary, ["doctor", "--json", "--ca-file", roots, "--client", "cursor", "--client", "inspector", "--client", "gemini-cli", `${URL_TOP}/mcp`], { encoding: "utf8" });
  const report = JSON.parse(doctor.stdout);
  const found = report.steps.map((step) => step.finding).filter(Boolean);
  // What is true of this world: its names lead to this machine, and its authority is its own.
  assert.deepEqual(found.filter((code) => !["not-public", "certificate-private-authority"].includes(code)), [], doctor.stdout);
  assert.equal(doctor.status, 0);
  assert.ok(report.steps.some((step) => step.seen === "events come one by one"), doctor.stdout);
  assert.ok(!/a reverse proxy is in front of this one that is not named/.test(behind.stderr), behind.stderr);
  // A client's own X-Forwarded-For is not believed.
  const token = (await fetch(`${URL_TOP}/.idp/token`, { method: "POST", headers: { "x-forwarded-for": "192.0.2.66", "content-type": "application/x-www-form-urlencoded" }, body: "grant_type=refresh_token&refresh_token=x&client_id=x" })).status;
  assert.ok([400, 401].includes(token), String(token));
  assert.ok(!behind.stderr.includes("192.0.2.66"), behind.stderr);
  await stopped(behind);
  front.child.kill("SIGTERM");
  await front.exited;
  await until("the port is free", () => !listens(443));
}

const cases = {
  "nginx": () =>
    passes("deploy/nginx/mcp-auth-proxy.conf", (text) => {
      writeFileSync(at("server.conf"), text.replaceAll("/etc/ssl/mcp.example.com", at("ssl")));
      writeFileSync(at("nginx.conf"), `pid ${at("nginx.pid")}; daemon off; error_log stderr; events {} http { access_log off; client_body_temp_path ${at("body")}; proxy_temp_path ${at("proxied")}; fastcgi_temp_path ${at("f")}; uwsgi_temp_path ${at("u")}; scgi_temp_path ${at("s")}; include ${at("server.conf")}; }`);
      const valid = spawnSync("nginx", ["-t", "-c", at("nginx.conf")], { encoding: "utf8" });
      assert.equal(valid.status, 0, valid.stderr);
      return start("nginx", ["-c", at("nginx.conf")]);
    }, at("ca.pem")),

  "HAProxy": () =>
    passes("deploy/haproxy/haproxy.cfg", (text) => {
      writeFileSync(at("haproxy.cfg"), text.replaceAll("/etc/ssl/mcp.example.com", at("ssl")));
      const valid = spawnSync("haproxy", ["-c", "-f", at("haproxy.cfg")], { encoding: "utf8" });
      assert.equal(valid.status, 0, valid.stderr + valid.stdout);
      return start("haproxy", ["-db", "-f", at("haproxy.cfg")]);
    }, at("ca.pem")),

  "Caddy": () =>
    passes("deploy/caddy/Caddyfile", (text) => {
      writeFileSync(at("Caddyfile"), `{\n\tacme_ca https://localhost:14000/dir\n\tacme_ca_root ${at("ca.pem")}\n\tadmin off\n}\n${text}`);
      const env = { XDG_DATA_HOME: at("caddy"), XDG_CONFIG_HOME: at("caddy") };
      const valid = spawnSync("caddy", ["validate", "--config", at("Caddyfile"), "--adapter", "caddyfile"], { encoding: "utf8", env: { ...process.env, ...env } });
      assert.equal(valid.status, 0, valid.stderr);
      return start("caddy", ["run", "--config", at("Caddyfile"), "--adapter", "caddyfile"], env);
    }, at("roots.pem")),
};

await build();
pem();
await runCases(Object.fromEntries(Object.entries(cases).filter(([name]) => name.includes(only))), {
  afterFailure: async () => {
    stopOthers();
    await until("the port is free", () => !listens(443));
  },
  atEnd: tearDown,
});
