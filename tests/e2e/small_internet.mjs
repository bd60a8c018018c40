// A small internet in a network namespace of its own: a DNS server that sends every name here, and a certificate authority that asks the
// ports 80 and 443.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { start, stopEverything, until } from "./harness.mjs";

const world = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-world-"));
export const at = (name) => join(world, name);
export const URL_TOP = "https://mcp.example.com";
const THREE_MONTHS = 7_776_000;
let authority, names;

function openssl(...args) {
  const done = spawnSync("openssl", args, { encoding: "utf8" });
  assert.equal(done.status, 0, done.stderr);
}

// A certificate for `name`, signed by an authority that is made with it: `ca.pem`, NAME.pem, NAME.key.
export function certificate(name) {
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  if (!existsSync(at("ca.pem"))) {
    openssl("req", "-x509", ...curve, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "30", "-subj", "/CN=world CA", "-addext", "keyUsage=critical,keyCertSign");
  }
  openssl("req", ...curve, "-keyout", at(`${name}.key`), "-out", at(`${name}.csr`), "-subj", `/CN=${name}`);
  writeFileSync(at("ext"), `subjectAltName=DNS:${name},DNS:localhost\nextendedKeyUsage=serverAuth\n`);
  openssl("x509", "-req", "-in", at(`${name}.csr`), "-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial", "-days", "30", "-out", at(`${name}.pem`), "-extfile", at("ext"));
}

// Brings it up. `name` is that of the authority, besides localhost; it listens on all addresses, so that containers reach it.
export async function build({ name = "localhost" } = {}) {
  execFileSync("ip", ["link", "set", "lo", "up"]);
  writeFileSync(at("resolv.conf"), "nameserver 127.0.0.1\n");
  execFileSync("mount", ["--bind", at("resolv.conf"), "/etc/resolv.conf"]);
  const everywhere = name === "localhost" ? "127.0.0.1" : "0.0.0.0";
  names = start("pebble-challtestsrv", ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", `${everywhere}:53`, "-http01", "", "-https01", "", "-tlsalpn01", ""]);
  certificate(name);
  const pebble = {
    listenAddress: `${everywhere}:14000`, managementListenAddress: "127.0.0.1:15000", certificate: at(`${name}.pem`), privateKey: at(`${name}.key`),
    httpPort: 80, tlsPort: 443, ocspResponderURL: "", externalAccountBindingRequired: false, certificateValidityPeriod: THREE_MONTHS,
  };
  writeFileSync(at("pebble.json"), JSON.stringify({ pebble }));
  authority = start("pebble", ["-config", at("pebble.json"), "-dnsserver", "127.0.0.1:53"], { PEBBLE_VA_NOSLEEP: "1" });
  trust(readFileSync(at("ca.pem"), "utf8"));
  let roots;
  await until("the authority answers", async () => {
    try {
      roots = await (await fetch("https://localhost:15000/roots/0")).text();
    } catch {}
    return roots;
  });
  writeFileSync(at("roots.pem"), roots);
  trust(roots);
}

function trust(pem) {
  tls.setDefaultCACertificates([...tls.getCACertificates("default"), pem]);
}

// Changes what a name leads to: `add-a`, `clear-a`, `add-aaaa` and the like.
export const setName = (action, body) => fetch(`http://127.0.0.1:8055/${action}`, { method: "POST", body: JSON.stringify(body) });

// How many certificates were issued.
export const issued = () => authority.stdout.split("Issued certificate serial").length + authority.stderr.split("Issued certificate serial").length - 2;

// Stops all but the internet itself.
export const stopOthers = () => stopEverything({ but: [authority.child, names.child] });

export function listens(port) {
  const found = spawnSync("ss", ["-ltnH", `sport = :${port}`], { encoding: "utf8" });
  return found.stdout.trim() !== "";
}

export const tearDown = () => rmSync(world, { recursive: true, force: true });
