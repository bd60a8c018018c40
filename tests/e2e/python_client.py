"""The Python SDK through the whole flow, knowing nothing but the URL."""

import asyncio
import html
import http.client
import json
import re
import sys
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp.types import ElicitResult

REDIRECT = "http://127.0.0.1:53683/callback"
URL, PASSWORD = sys.argv[1:3]
TOOLS = json.loads(sys.argv[3])


class Storage:
    tokens = information = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.information

    async def set_client_info(self, information):
        self.information = information


def sign_in(url):
    """Opens the page, signs in, and returns where the browser is sent."""
    parts = urlsplit(url)

    def send(method, target, body=None, cookie=""):
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        headers = {"Accept": "text/html", "Cookie": cookie}
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"{parts.scheme}://{parts.netloc}"}
        connection.request(method, target, body=body, headers=headers)
        reply = connection.getresponse()
        return reply, reply.read().decode()

    page, text = send("GET", f"{parts.path}?{parts.query}")
    assert page.status == 200, text
    cookie = "; ".join(value.split(";")[0] for value in page.headers.get_all("Set-Cookie"))
    request = html.unescape(re.search(r'name="request" value="([^"]*)"', text).group(1))
    reply, text = send("POST", "/.auth/login", urlencode({"request": request, "password": PASSWORD, "decision": "allow"}), cookie)
    assert reply.status == 303, text
    return {name: values[0] for name, values in parse_qs(urlsplit(reply.headers["Location"]).query).items()}


async def main():
    storage, seen = Storage(), {"sign_ins": 0}

    async def redirect(url):
        seen["sign_ins"] += 1
        seen["answer"] = await asyncio.to_thread(sign_in, url)

    async def callback():
        answer = seen["answer"]
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])

    metadata = OAuthClientMetadata(client_name="Python SDK", redirect_uris=[REDIRECT], grant_types=["authorization_code", "refresh_token"], response_types=["code"], token_endpoint_auth_method="none")
    provider = OAuthClientProvider(server_url=URL, client_metadata=metadata, storage=storage, redirect_handler=redirect, callback_handler=callback)
    async with httpx2.AsyncClient(auth=provider, follow_redirects=True, timeout=30) as http_client:
        over_sse = urlsplit(URL).path == "/sse"
        transport = sse_client(URL, auth=provider) if over_sse else streamable_http_client(URL, http_client=http_client)

        async def elicited(context, params):
            return ElicitResult(action="accept", content={"name": "Ada"})

        async with Client(transport, elicitation_callback=elicited) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert all(TOOLS[tool] in names for tool in ("echo", "slow", "ask") if tool in TOOLS), names
            echoed = await client.call_tool(TOOLS["echo"], TOOLS["echoArguments"])
            assert TOOLS.get("answer", "hello") in echoed.content[0].text, echoed
            if "slow" in TOOLS:
                progress = []

                async def note(value, total, message):
                    progress.append(value)

                await client.call_tool(TOOLS["slow"], TOOLS["slowArguments"], progress_callback=note)
                assert len(progress) >= 2, progress
            if "ask" in TOOLS:
                greeted = await client.call_tool(TOOLS["ask"], {})
                assert greeted.content[0].text == "Hello, Ada!", greeted
            before = storage.tokens
            provider.context.token_expiry_time = time.time() - 10
            await client.call_tool(TOOLS["echo"], TOOLS["echoArguments"])
            assert storage.tokens.refresh_token != before.refresh_token, "the tokens were refreshed"
            assert seen["sign_ins"] == 1, seen


asyncio.run(asyncio.wait_for(main(), 120))
