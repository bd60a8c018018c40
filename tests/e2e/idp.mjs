// A certified OpenID provider (oidc-provider) with a few users; any password but "wrong" signs in.
//   node idp.mjs --port 3000 --redirect http://localhost:8080/.auth/oidc/callback [--alg ES256]
import { generateKeyPairSync, randomBytes } from "node:crypto";
import Provider from "oidc-provider";

const option = (name, otherwise) => (process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : otherwise);
const port = Number(option("port"));
const alg = option("alg", "RS256");
const issuer = `http://127.0.0.1:${port}`;

const users = {
  "alice@example.com": { sub: "u-alice", email: "alice@example.com", email_verified: true, name: "Alice Example", groups: ["engineering", "admins"] },
  "bob@example.org": { sub: "u-bob", email: "bob@example.org", email_verified: true, name: "Bob Sample", groups: ["sales"] },
  "mallory@example.com": { sub: "u-mallory", email: "alice@example.com", email_verified: false, name: "Mallory", groups: [] },
};
const bySubject = Object.fromEntries(Object.values(users).map((user) => [user.sub, user]));

const { privateKey } = alg === "ES256" ? generateKeyPairSync("ec", { namedCurve: "P-256" }) : generateKeyPairSync("rsa", { modulusLength: 2048 });
const jwk = { ...privateKey.export({ format: "jwk" }), use: "sig", alg, kid: randomBytes(6).toString("hex") };
const scopes = ["openid", "email", "profile", "groups", "offline_access"];

const provider = new Provider(issuer, {
  clients: [{ client_id: "proxy", client_secret: "s3cret & more", redirect_uris: [option("redirect")], grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], id_token_signed_response_alg: alg }],
  jwks: { keys: [jwk] },
  enabledJWA: { idTokenSigningAlgValues: [alg] },
  cookies: { keys: [randomBytes(16).toString("hex")] },
  pkce: { required: () => true },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  scopes,
  features: { devInteractions: { enabled: false } },
  findAccount: (_, sub) => bySubject[sub] && { accountId: sub, claims: () => bySubject[sub] },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  // Its own consent is no part of these tests.
  loadExistingGrant: async (ctx) => {
    const { client, session } = ctx.oidc;
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(scopes.join(" "));
    await grant.save();
    return grant;
  },
  issueRefreshToken: (_, client, code) => code.scopes.has("offline_access"),
  ttl: { AccessToken: 300, IdToken: 300, Interaction: 600, Session: 3600, Grant: 3600, RefreshToken: 3600 },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith("/interaction/")) return next();
  if (ctx.method === "POST") {
    let body = "";
    for await (const piece of ctx.req) body += piece;
    const form = new URLSearchParams(body);
    const user = users[form.get("login")];
    if (user && form.get("password") !== "wrong") {
      ctx.respond = false;
      return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: user.sub } }, { mergeWithLastSubmission: false });
    }
  }
  ctx.status = ctx.method === "POST" ? 401 : 200;
  ctx.type = "html";
  ctx.body = `<!doctype html><title>Provider</title><h1>Provider</h1><form method="post"><input name="login"><input type="password" name="password"><button>Continue</button></form>`;
});
provider.on("server_error", (_, error) => console.error(error.stack));
provider.listen(port, "127.0.0.1", () => console.log(`${issuer} signs with ${alg}`));
