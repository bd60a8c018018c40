// Each docker command of README and documents, read from there, in a small internet: with a real engine, the images that were built, and real
// clients through the published ports.
//   unshare --net --mount node images.mjs PYTHON REPOSITORY CACHE
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { commands } from "./commands.mjs";
import { runCases, start, stopEverything, until } from "./harness.mjs";
import { URL_TOP, at, build, setName, tearDown } from "./small_internet.mjs";
import { DEMO, FILESYSTEM, reaches } from "./typing.mjs";
import { getToken } from "./token.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [, repository, cache] = process.argv.slice(2);
const PASSWORD = "changeme";
const ENGINE = { DOCKER_HOST: process.env.DOCKER_HOST };
const docker = (...args) => spawnSync("docker", args, { encoding: "utf8" });

// The commands of the documents that are for an engine, each as it stands there, with the folders that are made for it.
function ofEngine() {
  const found = [];
  for (const file of ["README.md", ...readdirSync(join(repository, "docs")).map((name) => `docs/${name}`)]) {
    if (!file.endsWith(".md")) continue;
    const lines = commands(readFileSync(join(repository, file), "utf8"));
    lines.forEach((line, at) => line.startsWith("docker run ") && found.push({ file, line, before: lines.slice(at - 1, at).filter((other) => /^mkdir /.test(other)) }));
  }
  return found;
}

const RUN = ofEngine();
assert.ok(RUN.length >= 4, "not all commands were found");

async function engine() {
  execFileSync("ip", ["addr", "add", "10.99.0.1/32", "dev", "lo"]);
  const dockerd = start("dockerd", ["--data-root", join(cache, "data"), "--exec-root", at("exec"), "--pidfile", at("docker.pid"), "-H", process.env.DOCKER_HOST, "--dns", "10.99.0.1"]);
  await until("the engine answers", () => {
    assert.equal(dockerd.child.exitCode, null, dockerd.stderr);
    return docker("version").status === 0;
  });
  return dockerd;
}

// What is different here: the authority, and a registry that is not there.
const HERE = `-v ${at("")}:/world:ro -e ACME_CA_FILE=/world/ca.pem -e TLS_DIRECTORY_URL=https://authority.internal:14000/dir -v ${cache}/npm:/home/mcp-server/.npm -e npm_config_offline=true`;
let count = 0;

// Types a command of the documents in an empty folder with `notes`; returns its name and its folder.
async function typed({ line, before = [] }, { folder = undefined } = {}) {
  const isNew = folder === undefined;
  const name = `map${count++}`;
  folder ??= at(name);
  mkdirSync(join(folder, "notes"), { recursive: true });
  writeFileSync(join(folder, "notes/greeting.txt"), "hello\n");
  for (const path of [folder, join(folder, "notes")]) chmodSync(path, 0o755);
  for (const other of before) execFileSync("sh", ["-c", other], { cwd: folder });
  const here = line.replace("docker run ", `docker run --name ${name} ${HERE} `).replace(/ghcr\.io\/[^ ]*\/mcp-auth-proxy/, "mcp-auth-proxy:latest");
  const program = start("sh", ["-c", `cd "$0" && exec ${here}`, folder], { ...ENGINE, PASSWORD });
  await until(`the container is ready: ${line}`, () => {
    assert.equal(program.child.exitCode, null, program.stderr + program.stdout);
    return /ready:|Ctrl-C ends the demo/.test(program.stderr + program.stdout) && (!isNew || !/TLS_ACCEPT_TOS/.test(line) || /a certificate was obtained and is in use/.test(program.stderr));
  });
  return { name, folder, program };
}

// Uses what was published, as the command says: a server of files, or one that echoes the request.
async function used(line, program) {
  const origin = /(?:EXTERNAL_URL=|--external-url )(\S+)/.exec(line)[1];
  if (line.includes(" demo ")) return typescriptFlow({ url: `${origin}/mcp`, password: /Password +(\S+)/.exec(program.stdout)[1], tools: DEMO });
  if (line.includes("server-filesystem")) await typescriptFlow({ url: `${origin}/mcp`, password: PASSWORD, tools: { ...FILESYSTEM("/notes") } });
  else assert.equal(await reaches(origin, PASSWORD), "GET /mcp password");
}

// It ends by itself within the time that the documents give it.
async function ends({ name, program }) {
  if (!/demo/.test(program.child.spawnargs.join(" "))) isWell(name, program);
  const stop = docker("stop", "--time", "35", name);
  assert.equal(stop.status, 0, stop.stderr);
  assert.equal(await program.exited, 0, program.stderr);
  assert.match(program.stderr, /"event":"stopped"|stopped/);
}

// The check of the image itself.
function isWell(name, program) {
  const health = docker("exec", name, "sh", "-c", "true").status === 0 ? "/usr/local/bin/mcp-auth-proxy" : "/mcp-auth-proxy";
  assert.equal(docker("exec", name, health, "healthcheck").status, 0, program.stderr);
}

const upstream = (address, port) => {
  const server = http.createServer((request, response) => response.end(`${request.method} ${request.url} ${request.headers["x-forwarded-user"]}`));
  return new Promise((resolve) => server.listen(port, address, () => resolve({ stop: () => (server.close(), server.closeAllConnections()) })));
};

const cases = {};
for (const command of RUN) {
  cases[`${command.file}: ${command.line}`] = async () => {
    const servers = [await upstream("127.0.0.1", command.line.includes("-p 8080") ? 9001 : 8080), await upstream("10.99.0.1", 9000)];
    try {
      const container = await typed(command);
      await used(command.line, container.program);
      await ends(container);
    } finally {
      for (const server of servers) server.stop();
    }
  };
}

const withFiles = RUN.find(({ line }) => line.includes("server-filesystem"));
cases["a restart and a kill lose no login, and the data directory is closed to others"] = async () => {
  const first = await typed(withFiles);
  const token = await getToken({ origin: URL_TOP, password: PASSWORD });
  const asks = async () => (await fetch(`${URL_TOP}/mcp`, { method: "POST", body: "{", headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" } })).status;
  // Not a message, but no 401 either: the token is good.
  assert.equal(await asks(), 400);
  assert.equal(statSync(join(first.folder, "data")).mode & 0o077, 0);
  docker("kill", "--signal", "KILL", first.name);
  await first.program.exited;
  const second = await typed(withFiles, { folder: first.folder });
  assert.equal(await asks(), 400);
  await ends(second);
};

cases["the server's command can't read the keys, and sees no variable of the proxy"] = async () => {
  const line = withFiles.line.replace(/mcp-auth-proxy:full.*/, "mcp-auth-proxy:full -- sh -c 'id -u; cat /data/secret; env; exec /usr/local/bin/mcp-auth-proxy stdio-demo' ");
  const container = await typed({ line: line.replace("exec /usr", ">&2 exec /usr").replace("id -u;", "id -u >&2;").replace("cat /data/secret;", "cat /data/secret >&2;").replace("env;", "env >&2;").replace(">&2 exec", "exec") });
  const url = `${URL_TOP}/mcp`;
  await typescriptFlow({ url, password: PASSWORD, tools: DEMO });
  const log = container.program.stderr;
  assert.match(log, /10001/);
  assert.match(log, /Permission denied/);
  assert.ok(!log.includes(PASSWORD), "the password is in the environment of the server");
  await ends(container);
};

cases["deploy/compose/compose.yaml, with the password in a file"] = async () => {
  const folder = at("compose");
  mkdirSync(join(folder, "notes"), { recursive: true });
  writeFileSync(join(folder, "notes/greeting.txt"), "hello\n");
  for (const path of [folder, join(folder, "notes")]) chmodSync(path, 0o755);
  const released = readFileSync(join(repository, "deploy/compose/compose.yaml"), "utf8");
  assert.match(released, /image: ghcr\.io\/[^/]+\/mcp-auth-proxy:full/);
  writeFileSync(join(folder, "compose.yaml"), released.replace(/ghcr\.io\/[^/]+\//, ""));
  writeFileSync(join(folder, "password.txt"), `${PASSWORD}\n`, { mode: 0o600 });
  // What is different here.
  const more = {
    version: "3.8",
    services: { mcp: { environment: { ACME_CA_FILE: "/world/ca.pem", TLS_DIRECTORY_URL: "https://authority.internal:14000/dir", npm_config_offline: "true" }, volumes: [`${at("")}:/world:ro`, `${cache}/npm:/home/mcp-server/.npm`] } },
  };
  writeFileSync(join(folder, "here.yaml"), JSON.stringify(more));
  const valid = spawnSync("docker-compose", ["-f", "compose.yaml", "config", "-q"], { cwd: folder, encoding: "utf8" });
  assert.equal(valid.status, 0, valid.stderr);
  const program = start("sh", ["-c", 'cd "$0" && exec docker-compose -f compose.yaml -f here.yaml up --no-color', folder], ENGINE);
  await until("the service is ready", () => {
    assert.equal(program.child.exitCode, null, program.stderr + program.stdout);
    return /a certificate was obtained and is in use/.test(program.stdout) && /ready:/.test(program.stdout);
  });
  await typescriptFlow({ url: `${URL_TOP}/mcp`, password: PASSWORD, tools: FILESYSTEM("/notes") });
  assert.equal(await program.stop(), 0, program.stderr);
  assert.equal(docker("inspect", "--format", "{{.State.ExitCode}}", "compose_mcp_1").stdout.trim(), "0", "it was killed");
  spawnSync("docker-compose", ["-f", "compose.yaml", "-f", "here.yaml", "down"], { cwd: folder });
};

cases["an image without programs says so when it is given the command of one"] = async () => {
  const done = docker("run", "--rm", "-e", "PASSWORD=x", "mcp-auth-proxy:latest", "--", "npx", "-y", "server");
  assert.equal(done.status, 2, done.stdout);
  assert.match(done.stderr, /npx.*no programs.*full/s);
};

await build({ name: "authority.internal" });
const dockerd = await engine();
for (const host of ["authority.internal.", "upstream.example.com."]) await setName("add-a", { host, addresses: ["10.99.0.1"] });
await runCases(cases, {
  afterFailure: () => {
    const running = docker("ps", "-q").stdout.split("\n").filter(Boolean);
    if (running.length > 0) docker("rm", "-f", ...running);
  },
  atEnd: async () => {
    docker("rm", "-f", ...docker("ps", "-aq").stdout.split("\n").filter(Boolean));
    await dockerd.stop();
    spawnSync("umount", [at("exec/netns/default")]);
    stopEverything();
    tearDown();
  },
});
