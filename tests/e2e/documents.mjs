// The commands of README and documents, read from there and typed as they stand, in a small internet with a certificate authority, by somebody who
// begins each document in an empty folder. A command that is in no rule below is a failure, and so is a rule that fits none.
//   unshare --net --mount node documents.mjs BINARY REPOSITORY
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import http from "node:http";
import { dirname, join } from "node:path";
import { commands } from "./commands.mjs";
import { runCases, start, until } from "./harness.mjs";
import { URL_TOP, at, build, stopOthers, tearDown } from "./small_internet.mjs";
import { DEMO, FILESYSTEM, isReady, reaches, stopped } from "./typing.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [binary, repository] = process.argv.slice(2);
const PASSWORD = "changeme";
const HERE = { TLS_DIRECTORY_URL: "https://localhost:14000/dir", ACME_CA_FILE: at("ca.pem"), CA_FILE: at("roots.pem") };

// Commands that are not typed here, each with the reason.
const NOT_HERE = [
  [/^cargo run --release -- demo$/, "builds the program first; `mcp-auth-proxy demo` is typed in its place, below"],
  [/^scripts\/test$/, "is what runs this"],
  [/^docker(-compose)? /, "images.mjs types it, with a real engine"],
  [/^head -c 15 \/dev\/urandom \| base64 > password\.txt$/, "belongs to docker-compose; images.mjs has its password"],
  [/^mkdir -m 700 -p data$/, "belongs to docker run; images.mjs types it"],
  [/^(claude|code|gemini|codex) /, "the client needs an account and a desktop; its protocol is played by SDKs, and by doctor"],
  [/^npx @modelcontextprotocol\/inspector /, "needs a person at its page; the SDK that it is made with connects in all of these tests"],
  [/^export (EXTERNAL_URL=https:\/\/mcp\.lan|TLS_DIRECTORY_URL=https:\/\/ca\.lan)/, "an authority of one's own; these settings are in tls/acme of the integration tests"],
  [/^curl -H "Authorization: Bearer map_…"/, "is left open on purpose; keys are used in oauth/machines of the integration tests"],
  [/ …$/, "is left open on purpose; the options that it shows are in app/access_log, app/audit and app/limits of the integration tests"],
  [/--password-hash '\$2b\$…'/, "is left open on purpose; the same line with a password is typed in the quick start"],
];

// Lines that serve: what they publish is used, and they are stopped.
const SERVES = /^mcp-auth-proxy (demo$|--external-url (?!.* …$))/;
// Lines that end by themselves. `status` is that of success, unless the document says otherwise.
const RUNS = [
  [/^export PASSWORD=/, {}],
  [/^(mkdir|chmod) /, {}],
  [/^unset PASSWORD$/, {}],
  [/^mcp-auth-proxy hash-password/, { input: "correct horse\n" }],
  [/^mcp-auth-proxy migrate old\.env > new\.env$/, {}],
  [/^mcp-auth-proxy migrate -- mcp-auth-proxy /, { says: /EXTERNAL_URL=https:\/\/mcp\.example\.com/ }],
  [/^mcp-auth-proxy check /, { says: /ok    configuration/ }],
  // Its names lead to this machine here, and its authority is its own, so vendors' clients can't connect.
  [/^mcp-auth-proxy doctor /, { status: [0, 1, 2], says: /gets as far as the sign-in|"left_registered"|not-public/, running: true }],
  [/^mcp-auth-proxy (status|reload|sessions|clients|keys|grants|users) /, { running: true, status: [0] }],
  [/^mcp-auth-proxy status$/, { running: true }],
];
const FAILS = new Map([
  // Nobody of that name is there, which the command says.
  ["mcp-auth-proxy users sign-out htpasswd:alice --apps", { status: [0, 1, 2] }],
  ["mcp-auth-proxy users sign-out htpasswd:charles --apps", { status: [0, 1, 2] }],
  ["mcp-auth-proxy grants revoke --client https://app.example/client.json", { status: [0, 1, 2] }],
  ["mcp-auth-proxy grants revoke --user alice@example.com", { status: [0, 1, 2] }],
]);

const files = ["README.md", ...readdirSync(join(repository, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)].sort();
const documents = files.map((file) => ({ file, text: readFileSync(join(repository, file), "utf8") })).map((document) => ({ ...document, lines: commands(document.text) }));
const used = new Set();

function rule(line) {
  const without = NOT_HERE.find(([pattern]) => pattern.test(line));
  if (without) return used.add(without), { why: without[1] };
  if (SERVES.test(line)) return { serves: true };
  const run = RUNS.find(([pattern]) => pattern.test(line));
  if (run) return used.add(run), { run: { ...run[1], ...FAILS.get(line) } };
  return undefined;
}

const upstream = (port) => {
  const server = http.createServer((request, response) => response.end(`${request.method} ${request.url} ${request.headers["x-forwarded-user"]}`));
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve({ stop: () => (server.close(), server.closeAllConnections()) })));
};

// A person at a shell in a folder.
class Shell {
  constructor(text) {
    mkdirSync(at("bin"), { recursive: true });
    if (spawnSync("test", ["-e", at("bin/mcp-auth-proxy")]).status !== 0) symlinkSync(binary, at("bin/mcp-auth-proxy"));
    // Below the modules, from which npx finds the servers that are installed.
    this.folder = mkdtempSync(join(import.meta.dirname, "work-"));
    this.env = { ...HERE, PATH: `${at("bin")}:${dirname(process.execPath)}:${process.env.PATH}`, HOME: process.env.HOME, PASSWORD };
    // Whoever has signed in already has a line in it.
    this.has("users", this.hash("ada") + this.hash("charles"));
    // What the reader has already: files that the document shows, or names.
    const json = [...text.matchAll(/```json\n([\s\S]*?)```/g)].map(([, body]) => body).find((body) => body.includes("mcpServers"));
    this.has("mcp.json", JSON.stringify(this.servers(json)));
    this.has("groups", "staff: ada\n");
    this.has("token", "not.a.token\n");
    // A document that makes the file itself begins without it.
    if (/hash-password --user ada >> users/.test(text)) this.has("users", "");
    this.has("old.env", "EXTERNAL_URL=https://mcp.example.com\nTLS_ACCEPT_TOS=true\nPASSWORD=changeme\n");
    this.has("builder.jwks.json", JSON.stringify({ keys: [spki()] }));
    mkdirSync(join(this.folder, "notes"), { recursive: true });
    writeFileSync(join(this.folder, "notes/greeting.txt"), "hello\n");
  }

  hash(name) {
    const done = spawnSync(binary, ["hash-password", "--user", name], { input: "correct horse\n", encoding: "utf8" });
    assert.equal(done.status, 0, done.stderr);
    return done.stdout;
  }

  has(name, text) {
    writeFileSync(join(this.folder, name), text, { mode: 0o600 });
    chmodSync(join(this.folder, name), 0o600);
  }

  // The file as it is shown, but for servers whose programs are not here.
  servers(json) {
    const shown = json ? JSON.parse(json) : { mcpServers: {} };
    const here = Object.entries(shown.mcpServers).filter(([, server]) => server.command === "mcp-auth-proxy" || (server.args ?? []).includes("./notes"));
    return { mcpServers: here.length > 0 ? Object.fromEntries(here) : { files: { command: "mcp-auth-proxy", args: ["stdio-demo"] } } };
  }

  run(line, { input = "", status = [0], says = /^/, running } = {}) {
    const shell = `${line}\nresult=$?; printf '\\0%s' "\${PASSWORD:-}"; exit $result`;
    const done = spawnSync("sh", ["-c", shell], { cwd: this.folder, env: running ? { ...this.env, DATA_PATH: running } : this.env, input, encoding: "utf8" });
    const [out, password] = done.stdout.split("\0");
    assert.ok([status].flat().includes(done.status), `${line}: ${done.status}\n${out}${done.stderr}`);
    assert.match(out, says, `${line}: ${done.stderr}`);
    this.env.PASSWORD = password;
    if (password === "") delete this.env.PASSWORD;
  }

  // Starts a line that serves.
  start(line) {
    // The demo makes a password if there is none.
    const { PASSWORD: _, ...without } = this.env;
    return start("sh", ["-c", `cd "$0" && exec ${line}`, this.folder], line === "mcp-auth-proxy demo" ? without : this.env);
  }

  // Connects to what the line publishes, as a client would.
  async connect(line, program) {
    const url = /--external-url (\S+)/.exec(line)?.[1];
    const person = line.includes("--htpasswd-file") ? { username: "ada", password: "correct horse" } : { password: this.env.PASSWORD };
    if (line === "mcp-auth-proxy demo") {
      const [, shown, password] = /URL +(\S+)[\s\S]*Password +(\S+)/.exec(program.stdout);
      return typescriptFlow({ url: shown, password, tools: DEMO });
    }
    if (line.includes("--servers")) {
      const [name, server] = Object.entries(JSON.parse(readFileSync(join(this.folder, "mcp.json"), "utf8")).mcpServers).at(-1);
      assert.equal(server.command, "mcp-auth-proxy");
      return typescriptFlow({ url: `${url}/${name}/mcp`, ...person, tools: DEMO });
    }
    if (line.includes("server-filesystem")) return typescriptFlow({ url: `${url}/mcp`, ...person, tools: FILESYSTEM(join(this.folder, "notes")) });
    if (line.includes("stdio-demo")) return typescriptFlow({ url: `${url}/mcp`, ...person, tools: DEMO });
    assert.equal(await reaches(url, person.password, person.username), `GET /mcp ${person.username ? `htpasswd:${person.username}` : "password"}`);
  }
}

function spki() {
  const { publicKey } = globalThis.generated;
  return { ...publicKey.export({ format: "jwk" }), alg: "ES256", use: "sig", kid: "1" };
}

async function document({ file, text, lines }) {
  const shell = new Shell(text);
  // The proxy that is asked by commands to a running one: it serves what the document is about.
  let behind;
  const running = async () => {
    behind ??= start("mcp-auth-proxy", ["--external-url", URL_TOP, "--tls-accept-tos", "--data-path", at(`running-${file.replaceAll("/", "-")}`), "--servers", join(shell.folder, "running.json"), "--api-keys", "--password", PASSWORD], { ...shell.env });
    await isReady(behind);
    return at(`running-${file.replaceAll("/", "-")}`);
  };
  shell.has("running.json", JSON.stringify({ mcpServers: { files: { command: "mcp-auth-proxy", args: ["stdio-demo"], proxy: { legacy: true } } } }));
  for (const line of lines) {
    const found = rule(line);
    assert.ok(found, `${file}: no rule says whether this is typed, or why not: ${line}`);
    if (found.run) {
      const directory = found.run.running ? await running() : undefined;
      shell.run(line, { ...found.run, running: directory });
    } else if (found.serves) {
      if (behind) await stopped(behind);
      behind = undefined;
      const port = / http:\/\/localhost:(\d+)(?:\/mcp)?$/.exec(line)?.[1];
      const server = port && (await upstream(Number(port)));
      const program = shell.start(line);
      try {
        if (line === "mcp-auth-proxy demo") await until("the demo is ready", () => /Ctrl-C/.test(program.stdout));
        else await isReady(program);
        // The first certificate of this world takes a moment.
        if (line.includes("--tls-accept-tos")) await until("there is a certificate", () => fetch(`${URL_TOP}/.idp/healthz`).then(() => true, () => false));
        await shell.connect(line, program);
        await stopped(program);
      } catch (error) {
        throw new Error(`${file}: ${line}\n${error.stack}\n${program.stderr}`);
      } finally {
        server?.stop();
      }
    }
  }
  if (behind) await stopped(behind);
}

const cases = {};
for (const one of documents) if (one.lines.length > 0) cases[`${one.file}: ${one.lines.length} commands`] = () => document(one);
cases["the demo that the README begins with"] = () => document({ file: "demo", text: "", lines: ["mcp-auth-proxy demo"] });
cases["each rule fits a command"] = () => {
  const idle = [...NOT_HERE, ...RUNS].filter((known) => !used.has(known)).map(([pattern]) => String(pattern));
  assert.deepEqual(idle, []);
};

globalThis.generated = (await import("node:crypto")).generateKeyPairSync("ec", { namedCurve: "P-256" });
process.env.PATH = `${at("bin")}:${process.env.PATH}`;
await build();
await runCases(cases, { afterFailure: stopOthers, atEnd: tearDown });
