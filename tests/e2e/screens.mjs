// The pages in a real browser: what it lets through, what a keyboard reaches, and pictures to look at.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { existsSync } from "node:fs";
import { join } from "node:path";

const VERIFIER = "a-verifier-of-forty-three-characters-at-least-0";
const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 360, height: 740 } };

function executable() {
  const found = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  assert.ok(found, "no Chromium: apt-get install chromium");
  return found;
}

async function client(origin, redirect, name) {
  const reply = await fetch(`${origin}/.idp/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ client_name: name, redirect_uris: [redirect], token_endpoint_auth_method: "none" }),
  });
  const { client_id } = await reply.json();
  const challenge = createHash("sha256").update(VERIFIER).digest("base64url");
  return `${origin}/.idp/auth?${new URLSearchParams({ response_type: "code", client_id, redirect_uri: redirect, state: "s", code_challenge: challenge, code_challenge_method: "S256" })}`;
}

async function redeem(origin, authorize, code) {
  const { client_id, redirect_uri } = Object.fromEntries(new URL(authorize).searchParams);
  const body = new URLSearchParams({ grant_type: "authorization_code", client_id, redirect_uri, code, code_verifier: VERIFIER });
  const reply = await fetch(`${origin}/.idp/token`, { method: "POST", body });
  return (await reply.json()).access_token;
}

// Is a request with this token let through? The server behind is down, so that it would be answered with 502.
async function isLetThrough(url, token) {
  const headers = { "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}` };
  const reply = await fetch(url, { method: "POST", headers, body: '{"jsonrpc":"2.0","id":1,"method":"ping"}' });
  assert.ok([401, 502].includes(reply.status), reply.status);
  return reply.status === 502;
}

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const launch = (playwright) => playwright.chromium.launch({ executablePath: executable(), args: FLAGS });

// Takes a picture and sees that nothing is wider than the screen.
async function picture(page, pictures, name, size, colorScheme) {
  await page.screenshot({ path: join(pictures, `${name}-${size}-${colorScheme}.png`), fullPage: true });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.ok(!overflow, `${name} is wider than a ${size}`);
  const focused = await page.evaluateHandle(() => document.activeElement);
  await isAccessible(page, `${name} on a ${size}, ${colorScheme}`);
  await focused.evaluate((element) => element?.focus?.());
}

// What a screen reader and somebody with weak eyes need: one heading that says what the page is, levels that follow each other, a name for every
// control, and contrast of 4.5 (3 for what is large or off), as WCAG 2.2 AA has it.
async function isAccessible(page, name) {
  const problems = await page.evaluate(() => {
    const problems = [];
    const isShown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
    const headings = [...document.querySelectorAll("h1, h2, h3, h4")].filter(isShown).map((heading) => Number(heading.tagName[1]));
    if (headings.filter((level) => level === 1).length !== 1) problems.push(`headings: ${headings}`);
    headings.forEach((level, at) => level > (headings[at - 1] ?? 0) + 1 && problems.push(`a heading of level ${level} behind ${headings[at - 1]}`));
    if (document.documentElement.lang === "" || !document.querySelector("main") || document.title === "") problems.push("language, main part or title");
    for (const control of document.querySelectorAll("a[href], button, input:not([type=hidden]), summary")) {
      if (!isShown(control) || control.hidden) continue;
      const label = control.labels?.[0]?.textContent ?? "";
      if ((control.textContent + label + (control.getAttribute("aria-label") ?? "")).trim() === "") problems.push(`no name: ${control.outerHTML}`);
    }
    const numbers = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = numbers(getComputedStyle(at).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color;
      }
      return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (walker.currentNode.data.trim() === "" || !isShown(element) || element.closest("[aria-hidden=true]")) continue;
      const style = getComputedStyle(element);
      const [one, other] = [light(numbers(style.color)), light(behind(element))].sort((a, b) => b - a);
      const isLarge = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
      const contrast = (one + 0.05) / (other + 0.05);
      if (contrast < (isLarge ? 3 : 4.5)) problems.push(`contrast ${contrast.toFixed(2)}: ${walker.currentNode.data.trim()}`);
    }
    return problems;
  });
  assert.deepEqual(problems, [], name);
  // The keyboard comes by every control, and shows where it is.
  const controls = page.locator("a[href]:visible, button:visible, input:not([type=hidden]):visible, summary:visible");
  const count = await controls.count();
  const seen = new Set();
  await page.evaluate(() => document.activeElement?.blur());
  for (let i = 0; i <= count; i++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return undefined;
      const style = getComputedStyle(element);
      return { markup: element.outerHTML, isMarked: style.outlineStyle !== "none" && style.outlineWidth !== "0px" };
    });
    if (at) {
      assert.ok(at.isMarked, `${name}: the focus is not seen at ${at.markup}`);
      seen.add(at.markup);
    }
  }
  const all = new Set(await controls.evaluateAll((elements) => elements.map((element) => element.outerHTML)));
  assert.equal(seen.size, all.size, `${name}: the keyboard reaches ${seen.size} of ${all.size} controls`);
}

// On the smallest phone in use, what there is to decide is seen without scrolling.
async function isInView(page, name) {
  const viewport = page.viewportSize();
  await page.setViewportSize({ width: 320, height: 568 });
  await page.evaluate(() => scrollTo(0, 0));
  const box = await page.getByRole("button", { name, exact: true }).boundingBox();
  assert.ok(box.y + box.height <= 568, `'${name}' ends at ${box.y + box.height} of 568`);
  await page.setViewportSize(viewport);
}

// Providers beside a password: the way there and back, who may not enter, and a provider that is not there.
export async function providerScreens({ playwright, origin, pictures }) {
  const callback = createServer((_, reply) => reply.end("<title>back at the client</title>")).listen(0, "127.0.0.1");
  await new Promise((resolve) => callback.once("listening", resolve));
  const back = `http://127.0.0.1:${callback.address().port}/callback`;
  const local = await client(origin, back, "An application");
  const browser = await launch(playwright);
  try {
    for (const [size, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        const context = await browser.newContext({ viewport, colorScheme });
        const page = await context.newPage();
        const complaints = [];
        page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
        const take = (name) => picture(page, pictures, name, size, colorScheme);
        await page.goto(local);
        await take("providers");
        await page.getByRole("button", { name: "Sign in with Example ID and allow" }).click();
        // The page between leads on by itself.
        await page.waitForSelector("input[name=login]");
        await page.fill("input[name=login]", "bob@example.org");
        await page.fill("input[name=password]", "any");
        await page.getByRole("button", { name: "Continue" }).click();
        await page.waitForSelector("text=You have no access");
        assert.match(await page.textContent("[role=alert]"), /bob@example\.org/);
        await take("no-access");
        // Another account, and what the client asked for is still there.
        await page.getByRole("button", { name: "Sign in with Example ID" }).click();
        await page.waitForSelector("input[name=login]");
        await page.fill("input[name=login]", "alice@example.com");
        await page.fill("input[name=password]", "any");
        await page.getByRole("button", { name: "Continue" }).click();
        await page.waitForURL(`${back}**`);
        assert.ok(new URL(page.url()).searchParams.get("code"), "the policy lets the whole way through");
        await page.goto(local);
        await take("consent-of-provider");
        await page.getByRole("button", { name: "Use another account" }).click();
        await page.waitForSelector("text=Sign in to allow access");
        // One that has never been reached since the start.
        await page.getByRole("button", { name: "Sign in with Google and allow" }).click();
        await page.waitForSelector("text=Google can't be reached");
        await take("unreachable");
        await page.goto(`${origin}/.auth/login`);
        await page.waitForSelector("text=Google can't be reached at the moment");
        await take("providers-one-unreachable");
        // The pages with an error status, and the icon the provider lacks.
        assert.deepEqual(complaints.filter((text) => !/status of (403|404|502)/.test(text)), []);
        await context.close();
      }
    }
  } finally {
    await browser.close();
    callback.close();
  }
}

export async function screens({ playwright, origin, password, pictures }) {
  const callback = createServer((_, reply) => reply.end("<title>back at the client</title>")).listen(0, "127.0.0.1");
  await new Promise((resolve) => callback.once("listening", resolve));
  const back = `http://127.0.0.1:${callback.address().port}/callback`;
  const local = await client(origin, back, "An application");
  const web = await client(origin, "https://app.example/cb", "A web application");
  const browser = await launch(playwright);
  try {
    for (const [size, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        const context = await browser.newContext({ viewport, colorScheme, javaScriptEnabled: true });
        const page = await context.newPage();
        const complaints = [];
        page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
        const take = (name) => picture(page, pictures, name, size, colorScheme);
        await page.goto(local);
        await take("sign-in");
        await isInView(page, "Sign in and allow");
        assert.equal(await page.evaluate(() => document.activeElement.id), "password", "the password field has the focus");
        await page.keyboard.type("wrong");
        await page.keyboard.press("Enter");
        await page.waitForSelector("[role=alert]");
        await take("wrong-password");
        // The keyboard alone is enough, and Enter allows rather than denies.
        await page.keyboard.type(password);
        await page.keyboard.press("Enter");
        await page.waitForURL(`${back}**`);
        assert.ok(new URL(page.url()).searchParams.get("code"), "the policy lets the form's redirect through");

        await page.goto(web);
        await take("consent");
        await isInView(page, "Allow");
        assert.equal(await page.getByRole("button", { name: "Allow", exact: true }).count(), 1);
        await page.goto(local);
        await page.getByRole("button", { name: "Deny" }).click();
        await page.waitForURL(`${back}**`);
        assert.equal(new URL(page.url()).searchParams.get("error"), "access_denied");

        await page.goto(`${origin}/`);
        await page.waitForSelector("text=You are signed in");
        await take("signed-in");
        await page.getByRole("button", { name: "Sign out" }).click();
        await page.waitForSelector("text=You are signed out");
        await take("signed-out");
        await page.goto(`${origin}/`);
        await take("home");
        complaints.length = 0;
        await page.goto(`${origin}/.idp/auth?client_id=unknown`);
        await take("error");
        await page.goto(`${origin}/mcp`);
        await take("not-for-browsers");
        // A page with an error status is named in the console; anything else would be a fault of the page.
        assert.deepEqual(complaints.filter((text) => !/status of 40[01]/.test(text)), []);
        const unlabelled = await page.evaluate(() => [...document.querySelectorAll("input:not([type=hidden]):not([hidden])")].filter((i) => !i.labels.length).length);
        assert.equal(unlabelled, 0);
        assert.equal(await page.evaluate(() => document.documentElement.lang), "en");
        await context.close();
      }
    }
  } finally {
    await browser.close();
    callback.close();
  }
}

// Several servers: the choice on the consent page, the cards of the page of the house, and whoever has no access.
export async function serverScreens({ playwright, origin, name, password, pictures }) {
  const callback = createServer((_, reply) => reply.end("<title>back at the client</title>")).listen(0, "127.0.0.1");
  await new Promise((resolve) => callback.once("listening", resolve));
  const back = `http://127.0.0.1:${callback.address().port}/callback`;
  const local = await client(origin, back, "Claude");
  const browser = await launch(playwright);
  try {
    for (const [size, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        const context = await browser.newContext({ viewport, colorScheme });
        const page = await context.newPage();
        const complaints = [];
        page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
        const take = (what) => picture(page, pictures, what, size, colorScheme);
        const signIn = async () => {
          await page.fill("#username", name);
          await page.fill("#password", password);
          await page.keyboard.press("Enter");
        };
        await page.goto(`${local}&resource=${encodeURIComponent(`${origin}/files/mcp`)}&resource=${encodeURIComponent(`${origin}/wiki/mcp`)}`);
        await page.waitForSelector("h1:has-text('Claude wants to use Files and Wiki')");
        assert.equal(await page.evaluate(() => document.activeElement.id), "username", "the field for the name has the focus");
        await take("sign-in-with-name");
        await page.goto(local);
        await take("sign-in-to-choose");
        await signIn();
        await page.waitForSelector("legend");
        assert.equal(await page.locator("input[type=checkbox]:checked").count(), 0);
        await take("choose");
        await page.getByRole("button", { name: "Allow", exact: true }).click();
        await page.waitForSelector("text=Tick at least one server");
        await take("choose-again");
        await page.getByLabel("Wiki").check();
        await page.getByRole("button", { name: "Allow", exact: true }).click();
        await page.waitForURL(`${back}**`);
        const token = await redeem(origin, local, new URL(page.url()).searchParams.get("code"));
        assert.ok(await isLetThrough(`${origin}/wiki/mcp`, token));
        await page.goto(`${local}&resource=${encodeURIComponent(`${origin}/ledger/mcp`)}`);
        await page.waitForSelector("text=This account may not use Ledger");
        await take("no-server");
        await page.goto(`${origin}/`);
        assert.equal(await page.locator("section.card").count(), 2, "the ledger is not for this user");
        assert.match(await page.getByRole("link", { name: "Add to VS Code" }).first().getAttribute("href"), /^vscode:mcp\/install\?/);
        await page.locator("summary").first().click();
        await take("servers");
        const width = await page.evaluate(() => document.querySelector("header img").naturalWidth);
        assert.ok(width > 0, "the logo is shown");
        // From there, two clicks end an application's access.
        await page.getByRole("link", { name: "Applications with access" }).click();
        await page.waitForSelector("h2:has-text('Claude')");
        await take("account");
        await page.getByRole("button", { name: "Disconnect Claude" }).click();
        await page.waitForSelector("[role=status]:has-text('Its next request is refused')");
        assert.equal(await isLetThrough(`${origin}/wiki/mcp`, token), false);
        await take("account-after");
        assert.deepEqual(complaints.filter((text) => !/status of 403/.test(text)), []);
        await context.close();
      }
    }
  } finally {
    await browser.close();
    callback.close();
  }
}
