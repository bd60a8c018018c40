// An MCP server that has everything the official suite's server scenarios ask for, in revisions 2025-11-25 and 2026-07-28:
// over HTTP on a port of its own, or over stdio.
//   node conformance_server.mjs --port 3000      node conformance_server.mjs --stdio
import { randomUUID } from "node:crypto";
import http from "node:http";
import { NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } from "@modelcontextprotocol/node";
import { createMcpHandler, createRequestStateCodec, fromJsonSchema, isLegacyRequest, McpServer, MissingRequiredClientCapabilityError, ProtocolError, ResourceNotFoundError } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";

const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
const INVALID_PARAMS = -32602;
const codec = createRequestStateCodec({ key: "a key for tests, and for nothing else" });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const text = (value) => ({ type: "text", text: value });
const image = { type: "image", data: PNG, mimeType: "image/png" };
const embedded = (uri, mimeType, value) => ({ type: "resource", resource: { uri, mimeType, text: value } });
const done = (...content) => ({ content });
const schema = (properties = {}, required = []) => ({ type: "object", properties, ...(required.length ? { required } : {}) });
const string = { type: "string" };

// Questions to the client: in the older revision requests of their own, in the newer one part of a result.
const askNow = (ctx, method, params) => ctx.mcpReq.send({ method, params });
const ask = (inputRequests, requestState) => ({ resultType: "input_required", inputRequests, ...(requestState ? { requestState } : {}) });
const elicit = (message, properties, required = Object.keys(properties)) => ({ method: "elicitation/create", params: { message, requestedSchema: schema(properties, required) } });
const sample = (question, maxTokens) => ({ method: "sampling/createMessage", params: { messages: [{ role: "user", content: text(question) }], maxTokens } });
const roots = { method: "roots/list", params: {} };
const answers = (ctx) => ctx.mcpReq.inputResponses ?? {};
const accepted = (ctx, name) => answers(ctx)[name]?.action === "accept" && answers(ctx)[name].content;
const elicitNow = async (ctx, message, properties, required, lead = "Elicitation completed") => {
  const { action, content } = await askNow(ctx, "elicitation/create", { message, requestedSchema: schema(properties, required) });
  return done(text(`${lead}: action=${action}, content=${JSON.stringify(content ?? {})}`));
};
const choices = (...pairs) => pairs.map(([value, title]) => ({ const: value, title }));

// Each tool: its input, and what it does with the arguments, the request's context and the server's own `changed`.
const tools = {
  test_simple_text: [schema(), () => done(text("This is a simple text response for testing."))],
  test_image_content: [schema(), () => done(image)],
  test_audio_content: [schema(), () => done({ type: "audio", data: WAV, mimeType: "audio/wav" })],
  test_embedded_resource: [schema(), () => done(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))],
  test_multiple_content_types: [schema(), () => done(text("Multiple content types test:"), image, embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'))],
  test_error_handling: [schema(), () => ({ isError: true, content: [text("This tool intentionally returns an error for testing")] })],
  test_tool_with_logging: [
    schema(),
    async (_, ctx) => {
      for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
        await ctx.mcpReq.notify({ method: "notifications/message", params: { level: "info", data } });
        await pause(50);
      }
      return done(text("three lines were logged"));
    },
  ],
  test_tool_with_progress: [
    schema(),
    async (_, ctx) => {
      const progressToken = ctx.mcpReq._meta?.progressToken;
      for (const progress of [0, 50, 100]) {
        if (progressToken !== undefined) await ctx.mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: 100 } });
        await pause(50);
      }
      return done(text("three steps were made"));
    },
  ],
  test_sampling: [
    schema({ prompt: string }, ["prompt"]),
    async ({ prompt }, ctx) => {
      const { content } = await askNow(ctx, "sampling/createMessage", sample(prompt, 100).params);
      return done(text(`LLM response: ${content.text}`));
    },
  ],
  test_elicitation: [schema({ message: string }, ["message"]), ({ message }, ctx) => elicitNow(ctx, message, { username: string, email: string }, ["username", "email"], "User response")],
  test_elicitation_sep1034_defaults: [
    schema(),
    (_, ctx) =>
      elicitNow(ctx, "Check what is filled in", {
        name: { type: "string", default: "John Doe" },
        age: { type: "integer", default: 30 },
        score: { type: "number", default: 95.5 },
        status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
        verified: { type: "boolean", default: true },
      }),
  ],
  test_elicitation_sep1330_enums: [
    schema(),
    (_, ctx) =>
      elicitNow(ctx, "Choose", {
        untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
        titledSingle: { type: "string", oneOf: choices(["value1", "First Option"], ["value2", "Second Option"], ["value3", "Third Option"]) },
        legacyEnum: { type: "string", enum: ["opt1", "opt2", "opt3"], enumNames: ["Option One", "Option Two", "Option Three"] },
        untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
        titledMulti: { type: "array", items: { anyOf: choices(["value1", "First Choice"], ["value2", "Second Choice"], ["value3", "Third Choice"]) } },
      }),
  ],
  test_reconnection: [
    schema(),
    async (_, ctx) => {
      ctx.http?.closeSSE?.();
      await pause(100);
      return done(text("sent after the stream was closed"));
    },
  ],
  json_schema_2020_12_tool: [
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: { address: { $anchor: "addressDef", type: "object", properties: { street: string, city: string } } },
      properties: { name: string, address: { $ref: "#/$defs/address" }, contactMethod: { type: "string", enum: ["phone", "email"] }, phone: string, email: string },
      allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
      if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
      then: { required: ["phone"] },
      else: { required: ["email"] },
      additionalProperties: false,
    },
    (args) => done(text(JSON.stringify(args))),
  ],
  test_custom_header: [schema({ region: { type: "string", "x-mcp-header": "Region" }, priority: { type: "integer", "x-mcp-header": "Priority" } }), (args) => done(text(JSON.stringify(args)))],
  test_missing_capability: [
    schema(),
    (_, ctx) => {
      if (!ctx.mcpReq.envelope?.["io.modelcontextprotocol/clientCapabilities"]?.sampling) throw new MissingRequiredClientCapabilityError({ requiredCapabilities: { sampling: {} } });
      return done(text("sampling is there"));
    },
  ],
  test_streaming_elicitation: [
    schema(),
    async (_, ctx) => {
      if (accepted(ctx, "answer")) return done(text("answered"));
      await ctx.mcpReq.notify({ method: "notifications/progress", params: { progressToken: ctx.mcpReq._meta?.progressToken ?? 0, progress: 1 } });
      return ask({ answer: elicit("Go on?", { answer: string }) });
    },
  ],
  test_logging_tool: [
    schema(),
    async (_, ctx) => {
      await ctx.mcpReq.log("info", "only for those who asked");
      return done(text("logged"));
    },
  ],
  test_trigger_tool_change: [schema(), (_, __, changed) => (changed.tools(), done(text("the tools have changed")))],
  test_trigger_prompt_change: [schema(), (_, __, changed) => (changed.prompts(), done(text("the prompts have changed")))],
  test_input_required_result_elicitation: [
    schema(),
    (_, ctx) => {
      const answer = accepted(ctx, "user_name");
      return typeof answer?.name === "string" ? done(text(`Hello, ${answer.name}!`)) : ask({ user_name: elicit("What is your name?", { name: string }) });
    },
  ],
  test_input_required_result_sampling: [
    schema(),
    (_, ctx) => {
      const answer = answers(ctx).capital_question;
      return answer ? done(text(answer.content?.text ?? "")) : ask({ capital_question: sample("What is the capital of France?", 100) });
    },
  ],
  test_input_required_result_list_roots: [
    schema(),
    (_, ctx) => {
      const found = answers(ctx).client_roots?.roots;
      return found ? done(text(found.map((root) => root.uri).join(" "))) : ask({ client_roots: roots });
    },
  ],
  test_input_required_result_request_state: [schema(), confirm("state-ok")],
  test_input_required_result_tampered_state: [schema(), confirm("untouched")],
  test_input_required_result_multiple_inputs: [
    schema(),
    async (_, ctx) => {
      const { user_name, greeting, client_roots } = answers(ctx);
      if (user_name && greeting && client_roots) return done(text("all three were answered"));
      return ask({ user_name: elicit("What is your name?", { name: string }), greeting: sample("Generate a greeting", 50), client_roots: roots }, await codec.mint({ asked: 3 }));
    },
  ],
  test_input_required_result_multi_round: [
    schema(),
    async (_, ctx) => {
      const { round } = ctx.mcpReq.requestState() ?? { round: 0 };
      if (round === 0) return ask({ step1: elicit("Step 1: What is your name?", { name: string }) }, await codec.mint({ round: 1 }));
      if (round === 1) return ask({ step2: elicit("Step 2: What is your favorite color?", { color: string }) }, await codec.mint({ round: 2, name: accepted(ctx, "step1")?.name }));
      return done(text(`${ctx.mcpReq.requestState().name} likes ${accepted(ctx, "step2")?.color}`));
    },
  ],
  test_input_required_result_capabilities: [
    schema(),
    (_, ctx) => {
      const { sampling, elicitation } = ctx.mcpReq.envelope?.["io.modelcontextprotocol/clientCapabilities"] ?? {};
      return ask({ ...(sampling ? { question: sample("Anything?", 10) } : {}), ...(elicitation ? { name: elicit("What is your name?", { name: string }) } : {}) });
    },
  ],
};

function confirm(word) {
  return async (_, ctx) => (accepted(ctx, "confirm") && ctx.mcpReq.requestState()?.word === word ? done(text(word)) : ask({ confirm: elicit("Please confirm", { ok: { type: "boolean" } }) }, await codec.mint({ word })));
}

const resources = {
  "test://static-text": { name: "static text", mimeType: "text/plain", content: { text: "This is the content of the static text resource." } },
  "test://static-binary": { name: "static binary", mimeType: "image/png", content: { blob: PNG } },
  "test://watched-resource": { name: "watched", mimeType: "text/plain", content: { text: "watched" } },
};
const said = (...content) => ({ messages: content.map((c) => ({ role: "user", content: c })) });
const prompts = {
  test_simple_prompt: [[], () => said(text("This is a simple prompt for testing."))],
  test_prompt_with_arguments: [["arg1", "arg2"], ({ arg1, arg2 }) => said(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  test_prompt_with_embedded_resource: [["resourceUri"], ({ resourceUri }) => said(embedded(resourceUri, "text/plain", "Embedded resource content for testing."), text("Please process the embedded resource above."))],
  test_prompt_with_image: [[], () => said(image, text("Please analyze the image above."))],
  test_input_required_result_prompt: [[], (_, ctx) => (accepted(ctx, "user_context") ? said(text(accepted(ctx, "user_context").context)) : ask({ user_context: elicit("What context should the prompt use?", { context: string }) }))],
};

// A server of one era; `changed` tells listeners of new lists.
function makeServer(changedBy) {
  const capabilities = { tools: { listChanged: true }, resources: { subscribe: true, listChanged: true }, prompts: { listChanged: true }, logging: {}, completions: {} };
  const whole = new McpServer({ name: "conformance-server", version: "1.0.0" }, { capabilities, requestState: { verify: codec.verify } });
  // Over HTTP the SDK compares fields with arguments only for tools that it knows by itself.
  const [inputSchema, run] = tools.test_custom_header;
  whole.registerTool("test_custom_header", { inputSchema: fromJsonSchema(inputSchema) }, run);
  const { server } = whole;
  const changed = changedBy?.() ?? { tools: () => server.sendToolListChanged(), prompts: () => server.sendPromptListChanged() };
  const unknown = (what) => {
    throw new ProtocolError(INVALID_PARAMS, what);
  };
  server.setRequestHandler("tools/list", () => ({ tools: Object.entries(tools).map(([name, [inputSchema]]) => ({ name, description: name.replaceAll("_", " "), inputSchema })) }));
  server.setRequestHandler("tools/call", ({ params }, ctx) => (tools[params.name] ?? unknown(`there is no tool ${params.name}`))[1](params.arguments ?? {}, ctx, changed));
  server.setRequestHandler("resources/list", () => ({ resources: Object.entries(resources).map(([uri, { content, ...rest }]) => ({ uri, ...rest })) }));
  server.setRequestHandler("resources/templates/list", () => ({ resourceTemplates: [{ uriTemplate: "test://template/{id}/data", name: "template", mimeType: "application/json" }] }));
  server.setRequestHandler("resources/read", ({ params: { uri } }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    if (id) return { contents: [{ uri, mimeType: "application/json", text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] };
    const found = resources[uri];
    if (!found) throw new ResourceNotFoundError(uri);
    return { contents: [{ uri, mimeType: found.mimeType, ...found.content }] };
  });
  server.setRequestHandler("resources/subscribe", () => ({}));
  server.setRequestHandler("resources/unsubscribe", () => ({}));
  server.setRequestHandler("prompts/list", () => ({ prompts: Object.entries(prompts).map(([name, [names]]) => ({ name, description: name.replaceAll("_", " "), arguments: names.map((n) => ({ name: n, required: true })) })) }));
  server.setRequestHandler("prompts/get", ({ params }, ctx) => (prompts[params.name] ?? unknown(`there is no prompt ${params.name}`))[1](params.arguments ?? {}, ctx));
  server.setRequestHandler("completion/complete", () => ({ completion: { values: ["alpha", "beta"], total: 2, hasMore: false } }));
  return whole;
}

// Keeps every event, so that a client that comes back gets what it missed.
class Events {
  events = [];
  async storeEvent(stream, message) {
    this.events.push({ stream, message });
    return `${stream}_${this.events.length}`;
  }
  async replayEventsAfter(last, { send }) {
    const at = Number(last.slice(last.lastIndexOf("_") + 1));
    const stream = this.events[at - 1]?.stream;
    for (const [i, event] of this.events.entries()) if (i >= at && event.stream === stream && Object.keys(event.message).length) await send(`${stream}_${i + 1}`, event.message);
    return stream;
  }
}

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
if (process.argv.includes("--stdio")) {
  serveStdio(() => makeServer());
} else {
  const modern = createMcpHandler(() => makeServer(() => ({ tools: () => modern.notify.toolsChanged(), prompts: () => modern.notify.promptsChanged() })), { legacy: "reject" });
  const handleModern = toNodeHandler(modern);
  const sessions = new Map();
  const eventStore = new Events();
  const isLocal = (host) => /^(localhost|127\.0\.0\.1)(:\d+)?$/.test(host ?? "");
  const listener = async (request, response) => {
    const refuse = (status, message) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code: -32000, message } }));
    const { host, origin } = request.headers;
    if (!isLocal(host) || (origin && !isLocal(origin.replace(/^https?:\/\//, "")))) return refuse(403, "this host is not served");
    let body;
    if (request.method === "POST") {
      const pieces = [];
      for await (const piece of request) pieces.push(piece);
      try {
        body = JSON.parse(Buffer.concat(pieces));
      } catch {
        return refuse(400, "the body is not JSON");
      }
    }
    if (!(await isLegacyRequest(await toWebRequest(request, body), body))) return handleModern(request, response, body);
    const id = request.headers["mcp-session-id"];
    let transport = sessions.get(id);
    if (!id && body?.method === "initialize") {
      transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, eventStore, retryInterval: 500, onsessioninitialized: (sid) => sessions.set(sid, transport), onsessionclosed: (sid) => sessions.delete(sid) });
      await makeServer().connect(transport);
    }
    if (!transport) return refuse(id ? 404 : 400, "there is no such session");
    await transport.handleRequest(request, response, body);
  };
  http.createServer(listener).listen(port, "127.0.0.1");
}
