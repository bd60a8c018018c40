// A browser for tests that need no pixels: cookies, redirects, and the forms of the sign-in pages.

const unescape = (text) => text.replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

export class Browser {
  // By host name: ports share cookies.
  #jars = new Map();

  #jar(url) {
    const { hostname } = new URL(url);
    if (!this.#jars.has(hostname)) this.#jars.set(hostname, new Map());
    return this.#jars.get(hostname);
  }

  // All of them, whatever host they belong to.
  get cookies() {
    return new Map([...this.#jars.values()].flatMap((jar) => [...jar]));
  }

  async fetch(url, { method = "GET", form } = {}) {
    const jar = this.#jar(url);
    const headers = { accept: "text/html", cookie: [...jar].map(([name, value]) => `${name}=${value}`).join("; ") };
    if (form) Object.assign(headers, { "content-type": "application/x-www-form-urlencoded", origin: new URL(url).origin });
    const reply = await fetch(url, { method, headers, body: form && new URLSearchParams(form).toString(), redirect: "manual" });
    for (const cookie of reply.headers.getSetCookie()) {
      const [pair] = cookie.split(";");
      const at = pair.indexOf("=");
      if (/max-age=0|expires=thu, 01 jan 1970/i.test(cookie)) jar.delete(pair.slice(0, at));
      else jar.set(pair.slice(0, at), pair.slice(at + 1));
    }
    return reply;
  }

  // Opens an authorization request, signs in by password, at a provider, or consents, and returns the URL that the client
  // is sent back to.
  async authorize(url, { username, password, provider, login, decision = "allow" }) {
    const page = await this.fetch(url);
    if (page.status === 303) return page.headers.get("location");
    const html = await page.text();
    if (page.status !== 200) throw new Error(`${page.status}: ${inWords(html)}`);
    const request = unescape(/name="request" value="([^"]*)"/.exec(html)[1]);
    if (provider && html.includes(`value="${provider}"`)) {
      const hop = await this.fetch(new URL("/.auth/login", url), { method: "POST", form: { request, provider } });
      if (hop.status !== 200) throw new Error(`${hop.status}: ${inWords(await hop.text())}`);
      return this.#through(hop.headers.get("refresh").replace(/^0;url=/, ""), login);
    }
    const action = /<form[^>]* action="([^"]+)"/.exec(html)[1];
    const form = { request, decision, ...(html.includes('type="password"') ? { password, ...(username ? { username } : {}) } : {}) };
    const reply = await this.fetch(new URL(action, url), { method: "POST", form });
    if (reply.status !== 303) throw new Error(`${action} answered ${reply.status}`);
    return reply.headers.get("location");
  }

  // Signs in at a provider, from its first page to the client's redirect URI.
  async #through(url, login) {
    let reply = await this.fetch(url);
    for (let hops = 0; hops < 20; hops++) {
      const next = reply.headers.get("location");
      if (next) {
        const target = new URL(next, url);
        // The way back: only this origin knows where the client is.
        if (reply.status === 303 && new URL(url).pathname.startsWith("/.auth/")) return target.href;
        url = target.href;
        reply = await this.fetch(url);
      } else if (reply.status === 200) {
        reply = await this.fetch(url, { method: "POST", form: { login, password: "any" } });
      } else {
        throw new Error(`${reply.status}: ${inWords(await reply.text())}`);
      }
    }
    throw new Error("the provider sends the browser around in circles");
  }
}

const inWords = (html) => html.replace(/<style[\s\S]*?<\/style>|<[^>]+>/g, " ");
