// A browser for tests that need no pixels: cookies, redirects, and the forms of the sign-in pages.

const unescape = (text) => text.replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

export class Browser {
  cookies = new Map();

  async fetch(url, { method = "GET", form } = {}) {
    const headers = { accept: "text/html", cookie: [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ") };
    if (form) Object.assign(headers, { "content-type": "application/x-www-form-urlencoded", origin: new URL(url).origin });
    const reply = await fetch(url, { method, headers, body: form && new URLSearchParams(form).toString(), redirect: "manual" });
    for (const cookie of reply.headers.getSetCookie()) {
      const [pair] = cookie.split(";");
      const at = pair.indexOf("=");
      if (/max-age=0/i.test(cookie)) this.cookies.delete(pair.slice(0, at));
      else this.cookies.set(pair.slice(0, at), pair.slice(at + 1));
    }
    return reply;
  }

  // Opens an authorization request, signs in or consents, and returns the URL that the client is sent back to.
  async authorize(url, { password, decision = "allow" }) {
    const page = await this.fetch(url);
    if (page.status === 303) return page.headers.get("location");
    const html = await page.text();
    if (page.status !== 200) throw new Error(`${page.status}: ${html.replace(/<style[\s\S]*?<\/style>|<[^>]+>/g, " ")}`);
    const action = /<form[^>]* action="([^"]+)"/.exec(html)[1];
    const request = unescape(/name="request" value="([^"]*)"/.exec(html)[1]);
    const form = { request, decision, ...(html.includes('type="password"') ? { password } : {}) };
    const reply = await this.fetch(new URL(action, url), { method: "POST", form });
    if (reply.status !== 303) throw new Error(`${action} answered ${reply.status}`);
    return reply.headers.get("location");
  }
}
