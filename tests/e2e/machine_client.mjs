// The TypeScript SDK as a client that acts for itself: node machine_client.mjs URL '{"id": …, "secret": …}' (or "key": FILE).
import { readFileSync } from "node:fs";
import { ClientCredentialsProvider, PrivateKeyJwtProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const url = new URL(process.argv[2]);
const { id, secret, key } = JSON.parse(process.argv[3]);
const common = { clientId: id, expectedIssuer: url.origin };
const authProvider = key ? new PrivateKeyJwtProvider({ ...common, privateKey: readFileSync(key, "utf8"), algorithm: "ES256" }) : new ClientCredentialsProvider({ ...common, clientSecret: secret });
const client = new Client({ name: "machine", version: "1" });
await client.connect(new StreamableHTTPClientTransport(url, { authProvider }));
const { tools } = await client.listTools();
if (!tools.some(({ name }) => name === "echo")) throw new Error("there is no tool echo");
const result = await client.callTool({ name: "echo", arguments: { text: "hello" } });
console.log(result.content[0].text);
await client.close();
