// Every kind of client, in an internet of two network namespaces: the proxy is in this one, and everybody else's servers in
// the other, at public addresses. No switch in the program opens its guard. Run in namespaces that belong to nobody else:
//   unshare --net --mount node clients.mjs BINARY PYTHON
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createPrivateKey, generateKeyPairSync, randomUUID, sign as signBytes } from "node:crypto";
import dgram from "node:dgram";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";
import { answers, runCases, sleep, start, stopEverything, until } from "./harness.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const HERE = "93.184.216.1";
const THERE = "93.184.216.34";
const TOOLS = { echo: "echo", echoArguments: { text: "hello" } };

if (process.argv[2] === "--internet") await internet(process.argv[3]);

// The other namespace: web servers of strangers, and an HTTP proxy. It tells at port 8081 what it was asked.
async function internet(world) {
  console.log("waiting for the wire");
  for (let i = 0; i < 200 && spawnSync("ip", ["link", "show", "there"]).status !== 0; i++) await sleep(50);
  execFileSync("ip", ["link", "set", "lo", "up"]);
  execFileSync("ip", ["link", "set", "there", "up"]);
  for (const address of [`${THERE}/24`, "93.184.216.99/24", "2606:2800:220:1::34/64"]) execFileSync("ip", ["addr", "add", address, "dev", "there", ...(address.includes(":") ? ["nodad"] : [])]);
  const seen = { requests: [], tunnels: [], fails: false };
  const document = (id, more) => ({ client_id: id, client_name: "Claude", redirect_uris: ["https://claude.example.com/api/mcp/auth_callback", "http://localhost/callback", "http://127.0.0.1/callback"], token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], ...more });
  const json = (response, body, headers = {}) => response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
  const pages = {
    "claude.example.com/oauth/mcp": (id, response) => json(response, document(id), { "cache-control": "max-age=86400" }),
    "flaky.example.com/client.json": (id, response) => (seen.fails ? response.writeHead(503).end() : json(response, document(id), { "cache-control": "no-store" })),
    "chatgpt.example.com/oauth/client.json": (id, response) =>
      json(response, document(id, { client_name: "ChatGPT", redirect_uris: ["https://chatgpt.example.com/connector_platform_oauth_redirect"], token_endpoint_auth_method: "private_key_jwt", jwks_uri: "https://chatgpt.example.com/oauth/jwks.json" })),
    "chatgpt.example.com/oauth/jwks.json": (id, response) => json(response, JSON.parse(readFileSync(join(world, "jwks.json"), "utf8"))),
    "broken.example.com/redirect": (id, response) => response.writeHead(302, { location: "https://claude.example.com/oauth/mcp" }).end(),
    "broken.example.com/large": (id, response) => json(response, document(id, { padding: "x".repeat(11_000) })),
    "broken.example.com/html": (id, response) => response.writeHead(200, { "content-type": "text/html" }).end("<html>"),
    "broken.example.com/other": (id, response) => json(response, document("https://claude.example.com/oauth/mcp")),
    "broken.example.com/secret": (id, response) => json(response, document(id, { client_secret: "s3cret" })),
    "broken.example.com/slow": (id, response) => {
      response.writeHead(200, { "content-type": "application/json" });
      const drip = setInterval(() => response.write(" "), 500);
      response.on("close", () => clearInterval(drip));
    },
  };
  const options = { cert: readFileSync(join(world, "web.pem")), key: readFileSync(join(world, "web.key")) };
  https.createServer(options, (request, response) => {
    const place = request.headers.host + request.url;
    seen.requests.push(place);
    const page = pages[place];
    if (page) page(`https://${place}`, response);
    else response.writeHead(404).end();
  }).listen(443, "::");
  http.createServer().on("connect", (request, socket, head) => {
    seen.tunnels.push(request.url);
    const [, host, port] = /^\[?([^\]]+?)\]?:(\d+)$/.exec(request.url);
    const onward = net.connect(Number(port), host, () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
    for (const end of [socket, onward]) end.on("error", () => (socket.destroy(), onward.destroy()));
  }).listen(3128, "::");
  http.createServer((request, response) => {
    if (request.url === "/fail") seen.fails = true;
    if (request.url === "/heal") seen.fails = false;
    json(response, seen);
  }).listen(8081, "::", () => console.log("ready"));
  await new Promise(() => {});
}

const [binary, python] = process.argv.slice(2);
const world = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-clients-"));
const at = (name) => join(world, name);

function openssl(...args) {
  const done = spawnSync("openssl", args, { encoding: "utf8" });
  assert.equal(done.status, 0, done.stderr);
}

// DNS: what each name leads to. A function is asked anew each time.
const NAMES = new Map();
function dns() {
  const server = dgram.createSocket("udp4");
  server.on("message", (query, from) => {
    const labels = [];
    let offset = 12;
    while (query[offset] > 0) {
      labels.push(query.toString("latin1", offset + 1, offset + 1 + query[offset]));
      offset += query[offset] + 1;
    }
    const kind = query.readUInt16BE(offset + 1);
    const found = NAMES.get(labels.join(".").toLowerCase());
    const addresses = ((typeof found === "function" ? found(kind) : found) ?? []).filter((address) => address.includes(":") === (kind === 28));
    const head = Buffer.from(query.subarray(0, 12));
    head.writeUInt16BE(found ? 0x8180 : 0x8183, 2);
    head.writeUInt16BE(addresses.length, 6);
    head.writeUInt32BE(0, 8);
    const records = addresses.map((address) => {
      const bytes = address.includes(":") ? v6(address) : Buffer.from(address.split(".").map(Number));
      const record = Buffer.alloc(12);
      record.writeUInt16BE(0xc00c, 0);
      record.writeUInt16BE(kind, 2);
      record.writeUInt16BE(1, 4);
      record.writeUInt16BE(bytes.length, 10);
      return Buffer.concat([record, bytes]);
    });
    server.send(Buffer.concat([head, query.subarray(12, offset + 5), ...records]), from.port, from.address);
  });
  return new Promise((resolve) => server.bind(53, "127.0.0.1", resolve));
}

function v6(text) {
  let [before, after] = text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) => `${(a * 256 + +b).toString(16)}:${(c * 256 + +d).toString(16)}`).split("::");
  const words = (part) => (part ? part.split(":").map((word) => parseInt(word, 16)) : []);
  const [first, last] = [words(before), words(after)];
  const all = [...first, ...Array(8 - first.length - last.length).fill(0), ...last];
  return Buffer.from(all.flatMap((word) => [word >> 8, word & 255]));
}

let outside;
const inward = { connections: 0 };
async function build() {
  execFileSync("ip", ["link", "set", "lo", "up"]);
  writeFileSync(at("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
  execFileSync("mount", ["--bind", at("resolv.conf"), "/etc/resolv.conf"]);
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...curve, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "30", "-subj", "/CN=world CA", "-addext", "keyUsage=critical,keyCertSign");
  openssl("req", ...curve, "-keyout", at("web.key"), "-out", at("web.csr"), "-subj", "/CN=web");
  writeFileSync(at("ext"), "subjectAltName=DNS:*.example.com\nextendedKeyUsage=serverAuth\n");
  openssl("x509", "-req", "-in", at("web.csr"), "-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial", "-days", "30", "-out", at("web.pem"), "-extfile", at("ext"));
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(at("client.key"), privateKey.export({ type: "pkcs8", format: "pem" }));
  writeFileSync(at("jwks.json"), JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "k1", alg: "ES256" }] }));
  execFileSync("ip", ["link", "add", "here", "type", "veth", "peer", "name", "there"]);
  outside = start("unshare", ["--net", process.execPath, import.meta.filename, "--internet", world]);
  await until("the other namespace is there", () => outside.stdout.includes("waiting"));
  execFileSync("ip", ["link", "set", "there", "netns", String(outside.child.pid)]);
  execFileSync("ip", ["link", "set", "here", "up"]);
  execFileSync("ip", ["addr", "add", `${HERE}/24`, "dev", "here"]);
  execFileSync("ip", ["addr", "add", "2606:2800:220:1::1/64", "dev", "here", "nodad"]);
  await until("the other namespace serves", () => outside.stdout.includes("ready"));
  for (const name of ["claude", "chatgpt", "broken", "flaky"]) NAMES.set(`${name}.example.com`, [THERE]);
  await dns();
}

// Whatever connects to port 443 on this side is counted: nothing ever should.
function trap() {
  const server = net.createServer((socket) => {
    inward.connections++;
    socket.destroy();
  });
  return new Promise((resolve) => server.listen(443, "::", resolve));
}

const asked = async () => (await fetch(`http://${THERE}:8081/`)).json();

let next = 8100;
async function proxy(args = [], env = {}) {
  const origin = `http://localhost:${next}`;
  const data = at(`data-${next}`);
  const program = start(binary, ["--listen", `127.0.0.1:${next++}`, "-e", origin, "-d", data, "--password", "changeme", "--ca-file", at("ca.pem"), ...args, "--", binary, "stdio-demo"], { LOG_LEVEL: "debug", ...env });
  await answers(`${origin}/.well-known/jwks.json`, program);
  const order = (...words) => {
    const done = spawnSync(binary, [...words, "--json", "-d", data], { encoding: "utf8" });
    assert.equal(done.status, 0, done.stderr);
    return JSON.parse(done.stdout);
  };
  return Object.assign(program, { origin, order, data });
}

// Opens an authorization request of the client with this document, and returns status and text of the page.
async function page(origin, id, redirect = "http://localhost:4711/callback", from = {}) {
  const url = new URL(`${origin}/.idp/auth`);
  url.search = new URLSearchParams({ response_type: "code", client_id: id, redirect_uri: redirect, code_challenge: "x".repeat(43), code_challenge_method: "S256", resource: `${origin}/mcp` });
  const reply = await fetch(url, { redirect: "manual", headers: { accept: "text/html", ...from } });
  const text = (await reply.text()).replace(/<style[\s\S]*?<\/style>|<[^>]+>/g, " ").replace(/\s+/g, " ");
  return { status: reply.status, location: reply.headers.get("location"), text };
}

const jwt = (header, claims, key) => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${signBytes("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
};
const seconds = () => Math.floor(Date.now() / 1000);

const CLAUDE = "https://claude.example.com/oauth/mcp";
const CHATGPT = "https://chatgpt.example.com/oauth/client.json";
const SPECIAL = [
  "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "192.0.0.1", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1",
  "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", HERE,
  "::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::5db8:d822", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "2002:5db8:d822::1", "3fff::1", "5f00::1",
  "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "2620:4f:8000::1", "2606:2800:220:1::1",
];

const cases = {
  "a client like Claude connects with its document and does not register": async () => {
    const server = await proxy();
    await typescriptFlow({ url: `${server.origin}/mcp`, password: "changeme", tools: TOOLS, clientMetadataUrl: CLAUDE });
    const [client] = server.order("clients", "list");
    assert.deepEqual([client.client_id, client.name, client.kind], [CLAUDE, "Claude", "document"]);
    assert.doesNotMatch(server.stderr, /a client registered/);
    const web = await page(server.origin, CLAUDE, "https://claude.example.com/api/mcp/auth_callback");
    assert.match(web.text, /Claude wants to use .* Described by claude\. ?example\.com/);
    const local = await page(server.origin, CLAUDE);
    assert.doesNotMatch(local.text, /Described by/);
    assert.match(local.text, /Any program on this computer can use that description/);
    assert.equal((await page(server.origin, CLAUDE, "http://127.0.0.1:65000/callback")).status, 200, "any port of this computer");
    for (const redirect of ["https://claude.example.com/other", "https://evil.example.com/", "http://localhost/other", "https://claude.example.com:444/api/mcp/auth_callback"]) {
      const refused = await page(server.origin, CLAUDE, redirect);
      assert.deepEqual([refused.status, refused.location], [400, null], redirect);
    }
    const fetched = (await asked()).requests.filter((place) => `https://${place}` === CLAUDE).length;
    assert.equal(fetched, 1, "its fields say that it may be kept");
    await server.stop();
  },

  "the Python SDK connects with a document": async () => {
    const server = await proxy();
    const done = start(python, [join(import.meta.dirname, "python_client.py"), `${server.origin}/mcp`, JSON.stringify({ password: "changeme" }), JSON.stringify(TOOLS), CLAUDE]);
    assert.equal(await done.exited, 0, done.stderr);
    assert.equal(server.order("clients", "list")[0].client_id, CLAUDE);
    await server.stop();
  },

  "a client like ChatGPT declares private_key_jwt and may leave it out; a grant that began with it keeps it": async () => {
    const server = await proxy();
    const key = createPrivateKey(readFileSync(at("client.key")));
    const redirect_uri = "https://chatgpt.example.com/connector_platform_oauth_redirect";
    const verifier = "v".repeat(50);
    const challenge = (await import("node:crypto")).createHash("sha256").update(verifier).digest("base64url");
    const token = async (form) => {
      const reply = await fetch(`${server.origin}/.idp/token`, { method: "POST", body: new URLSearchParams(form) });
      return { status: reply.status, ...(await reply.json()) };
    };
    const code = async () => {
      const url = new URL(`${server.origin}/.idp/auth`);
      url.search = new URLSearchParams({ response_type: "code", client_id: CHATGPT, redirect_uri, code_challenge: challenge, code_challenge_method: "S256" });
      return new URL(await new Browser().authorize(url, { password: "changeme" })).searchParams.get("code");
    };
    const assertion = (more = {}) => ({
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: jwt({ alg: "ES256", kid: "k1" }, { iss: CHATGPT, sub: CHATGPT, aud: server.origin, jti: randomUUID(), exp: seconds() + 60, ...more }, key),
    });
    const redeem = async (proof) => token({ grant_type: "authorization_code", code: await code(), redirect_uri, code_verifier: verifier, client_id: CHATGPT, ...proof });
    const without = await redeem({});
    assert.equal(without.status, 200, JSON.stringify(without));
    assert.equal((await token({ grant_type: "refresh_token", refresh_token: without.refresh_token, client_id: CHATGPT })).status, 200);
    const proven = await redeem(assertion());
    assert.equal(proven.status, 200, JSON.stringify(proven));
    const refresh = (proof) => token({ grant_type: "refresh_token", refresh_token: proven.refresh_token, client_id: CHATGPT, ...proof });
    assert.deepEqual([(await refresh({})).status, (await refresh({})).error], [401, "invalid_client"]);
    assert.equal((await refresh(assertion({ aud: "https://elsewhere.example" }))).error, "invalid_client");
    const other = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
    const forged = jwt({ alg: "ES256", kid: "k1" }, { iss: CHATGPT, sub: CHATGPT, aud: server.origin, jti: "x", exp: seconds() + 60 }, other);
    assert.equal((await refresh({ ...assertion(), client_assertion: forged })).error, "invalid_client");
    assert.equal((await refresh(assertion())).status, 200);
    // For other grant types a document is not enough, and nothing is fetched for a code that is not genuine.
    const before = (await asked()).requests.length;
    assert.equal((await token({ grant_type: "client_credentials", ...assertion() })).error, "unauthorized_client");
    assert.equal((await token({ grant_type: "authorization_code", code: "x", code_verifier: verifier, ...assertion({ iss: "https://flaky.example.com/client.json", sub: "https://flaky.example.com/client.json" }) })).error, "invalid_grant");
    assert.equal((await asked()).requests.length, before);
    await server.stop();
  },

  "no special address is ever connected to, whatever name it hides behind": async () => {
    await trap();
    // From many networks, since one of them may cause few fetches.
    const server = await proxy(["--trusted-proxies", "127.0.0.1"]);
    SPECIAL.forEach((address, i) => NAMES.set(`special-${i}.example.com`, [address]));
    const pages = [];
    for (let i = 0; i < SPECIAL.length; i++) pages.push(await page(server.origin, `https://special-${i}.example.com/client.json`, undefined, { "x-forwarded-for": `9.9.${i}.1` }));
    pages.forEach(({ status, text }, i) => assert.match(`${status} ${text}`, /^503 .*no address on the public internet/, `${SPECIAL[i]}: ${text}`));
    // An address among them that is good is used alone.
    NAMES.set("mixed.example.com", ["10.1.2.3", THERE, "127.0.0.1"]);
    assert.match((await page(server.origin, "https://mixed.example.com/x")).text, /answers 404/);
    assert.equal(inward.connections, 0);
    await server.stop();
  },

  "a name that changes between look-ups leads nowhere else": async () => {
    const server = await proxy();
    let looks = 0;
    NAMES.set("rebind.example.com", (kind) => (kind === 28 ? [] : looks++ % 2 === 0 ? [THERE] : ["127.0.0.1"]));
    for (let i = 0; i < 4; i++) await page(server.origin, `https://rebind.example.com/client-${i}.json`);
    assert.ok(looks >= 4, `${looks} look-ups`);
    assert.equal(inward.connections, 0);
    await server.stop();
  },

  "a document that redirects, is large, slow, no document, of another client or with a secret is refused with the reason": async () => {
    const server = await proxy();
    const reasons = { redirect: /redirect/, large: /larger than 10 KiB/, html: /not a JSON object/, other: /not its URL/, secret: /secret/, missing: /404/, slow: /takes too long/ };
    for (const [name, reason] of Object.entries(reasons)) {
      const { status, text } = await page(server.origin, `https://broken.example.com/${name}`);
      assert.match(`${status} ${text}`, new RegExp(`^(400|503) .*${reason.source}`), `${name}: ${text}`);
      assert.doesNotMatch(text, /s3cret/);
    }
    assert.match((await page(server.origin, "https://nowhere.example.com/x")).text, /no address on the public internet/);
    await server.stop();
  },

  "one fetch at a time for each URL, and a failure is remembered": async () => {
    const server = await proxy();
    const slow = () => asked().then(({ requests }) => requests.filter((place) => place === "broken.example.com/slow").length);
    const before = await slow();
    await Promise.all(Array.from({ length: 12 }, () => page(server.origin, "https://broken.example.com/slow")));
    await page(server.origin, "https://broken.example.com/slow");
    assert.equal((await slow()) - before, 1);
    await server.stop();
  },

  "a document whose host fails is used for another day, also after a restart": async () => {
    const server = await proxy();
    const id = "https://flaky.example.com/client.json";
    await typescriptFlow({ url: `${server.origin}/mcp`, password: "changeme", tools: TOOLS, clientMetadataUrl: id });
    await fetch(`http://${THERE}:8081/fail`);
    await server.stop();
    const args = ["--listen", `127.0.0.1:${new URL(server.origin).port}`, "-e", server.origin, "-d", server.data, "--password", "changeme", "--ca-file", at("ca.pem"), "--", binary, "stdio-demo"];
    const again = start(binary, args);
    await answers(`${server.origin}/.well-known/jwks.json`, again);
    assert.equal((await page(server.origin, id, "http://127.0.0.1:53682/callback")).status, 200);
    await fetch(`http://${THERE}:8081/heal`);
    await again.stop();
  },

  "through an HTTP proxy, the checked address is asked for and not the name": async () => {
    const server = await proxy([], { HTTPS_PROXY: "http://93.184.216.99:3128" });
    assert.equal((await page(server.origin, "https://claude.example.com/oauth/mcp")).status, 200);
    assert.deepEqual((await asked()).tunnels, [`${THERE}:443`]);
    NAMES.set("inner.example.com", ["10.1.2.3"]);
    assert.match((await page(server.origin, "https://inner.example.com/x")).text, /no address on the public internet/);
    assert.equal((await asked()).tunnels.length, 1);
    await server.stop();
  },

  "documents can be limited to domains, and switched off": async () => {
    const some = await proxy(["--cimd-allowed-domains", "claude.example.com"]);
    assert.equal((await page(some.origin, CLAUDE)).status, 200);
    assert.match((await page(some.origin, CHATGPT, "https://chatgpt.example.com/connector_platform_oauth_redirect")).text, /--cimd-allowed-domains/);
    await some.stop();
    const none = await proxy(["--no-cimd"]);
    assert.match((await page(none.origin, CLAUDE)).text, /--no-cimd/);
    await none.stop();
  },

  "both SDKs call a tool with client credentials, by secret and by key": async () => {
    const server = await proxy();
    const secret = server.order("clients", "add", "nightly").client_secret;
    server.order("clients", "add", "builder", "--jwks-file", at("jwks.json"));
    const url = `${server.origin}/mcp`;
    for (const credentials of [{ id: "nightly", secret }, { id: "builder", key: at("client.key") }]) {
      for (const [command, script] of [[process.execPath, "machine_client.mjs"], [python, "machine_client.py"]]) {
        const done = start(command, [join(import.meta.dirname, script), url, JSON.stringify(credentials)]);
        assert.equal(await done.exited, 0, `${script} ${credentials.id}: ${done.stderr}`);
        assert.match(done.stdout, /hello/);
      }
    }
    assert.equal(server.order("grants", "list").length, 2);
    const wrong = start(process.execPath, [join(import.meta.dirname, "machine_client.mjs"), url, JSON.stringify({ id: "nightly", secret: "wrong" })]);
    assert.notEqual(await wrong.exited, 0);
    await server.stop();
  },

  "an identity assertion and a workload's token of a real issuer call a tool each": async () => {
    const issuer = start(process.execPath, [join(import.meta.dirname, "issuer.mjs"), "8999"]);
    await answers("http://127.0.0.1:8999/jwks", issuer);
    const made = async (header, claims) => (await fetch("http://127.0.0.1:8999/sign", { method: "POST", body: JSON.stringify({ header, claims }) })).text();
    const rules = [{ claims: { sub: "alice" } }];
    const issuers = {
      corp: { issuer: "http://127.0.0.1:8999", kinds: ["enterprise"], rules },
      ci: { issuer: "http://127.0.0.1:8999", kinds: ["workload"], rules: [{ claims: { sub: "spiffe://example.org/*" } }] },
    };
    writeFileSync(at("issuers.json"), JSON.stringify({ issuers }), { mode: 0o600 });
    const server = await proxy(["--trusted-issuers", at("issuers.json")]);
    const metadata = await (await fetch(`${server.origin}/.well-known/oauth-authorization-server`)).json();
    assert.deepEqual(metadata.authorization_grant_profiles_supported, ["urn:ietf:params:oauth:grant-profile:id-jag"]);
    const secret = server.order("clients", "add", "agent", "--grant-type", "jwt-bearer").client_secret;
    const exchange = async (form) => {
      const reply = await fetch(`${server.origin}/.idp/token`, { method: "POST", body: new URLSearchParams({ grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer", ...form }) });
      return { status: reply.status, ...(await reply.json()) };
    };
    const tool = async (token) => {
      const send = (body, session) => fetch(`${server.origin}/mcp`, { method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream", ...session }, body: JSON.stringify({ jsonrpc: "2.0", ...body }) });
      const hello = await send({ id: 1, method: "initialize", params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "e2e", version: "1" } } });
      assert.equal(hello.status, 200);
      const session = { "mcp-session-id": hello.headers.get("mcp-session-id") };
      await hello.text();
      await send({ method: "notifications/initialized" }, session);
      return (await send({ id: 2, method: "tools/call", params: { name: "echo", arguments: { text: "hello" } } }, session)).text();
    };
    for (const alg of ["ES256", "RS256", "EdDSA"]) {
      const jag = await made({ alg, typ: "oauth-id-jag+jwt" }, { sub: "alice", aud: server.origin, client_id: "agent", resource: `${server.origin}/mcp`, scope: "mcp" });
      const answer = await exchange({ assertion: jag, client_id: "agent", client_secret: secret });
      assert.equal(answer.status, 200, JSON.stringify(answer));
      assert.match(await tool(answer.access_token), /hello/);
    }
    // The provider's own client credentials make the workload's token.
    const basic = Buffer.from("workload:workload-secret").toString("base64");
    const own = await (await fetch("http://127.0.0.1:8999/token", { method: "POST", headers: { authorization: `Basic ${basic}` }, body: new URLSearchParams({ grant_type: "client_credentials", resource: server.origin }) })).json();
    const answer = await exchange({ assertion: own.access_token, resource: `${server.origin}/mcp` });
    assert.equal(answer.status, 200, JSON.stringify(answer));
    assert.match(await tool(answer.access_token), /hello/);
    assert.deepEqual(server.order("grants", "list").map((grant) => grant.issuer).sort(), ["ci", "corp"]);
    const guest = await made({ alg: "ES256", typ: "oauth-id-jag+jwt" }, { sub: "guest", aud: server.origin, client_id: "agent" });
    assert.equal((await exchange({ assertion: guest, client_id: "agent", client_secret: secret })).error, "invalid_target");
    await server.stop();
    await issuer.stop();
  },
};

await build();
await runCases(cases, {
  afterFailure: () => stopEverything({ but: [outside.child] }),
  atEnd: () => existsSync(world) && rmSync(world, { recursive: true, force: true }),
});
