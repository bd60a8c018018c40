"""The Python SDK through the whole flow, knowing nothing but the URL."""

import asyncio
import html
import json
import re
import sys
import time
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp.types import ElicitResult

REDIRECT = "http://127.0.0.1:53683/callback"
URL = sys.argv[1]
# A password, or a provider and a login there.
IDENTITY, TOOLS = map(json.loads, sys.argv[2:4])
# The URL of a client metadata document, instead of registering.
DOCUMENT = sys.argv[4] if len(sys.argv) > 4 else None


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
    with httpx2.Client(headers={"Accept": "text/html"}, timeout=30) as browser:
        page = browser.get(url)
        assert page.status_code == 200, page.text
        request = html.unescape(re.search(r'name="request" value="([^"]*)"', page.text).group(1))
        form = {"request": request, **({"provider": IDENTITY["provider"]} if "provider" in IDENTITY else {**IDENTITY, "decision": "allow"})}
        reply = browser.post(urljoin(url, "/.auth/login"), data=form, headers={"Origin": urljoin(url, "/").rstrip("/")})
        if "provider" in IDENTITY:
            reply = browser.get(reply.headers["Refresh"].removeprefix("0;url="))
            while not (reply.status_code == 303 and "/.auth/" in reply.url.path):
                if "Location" in reply.headers:
                    reply = browser.get(urljoin(str(reply.url), reply.headers["Location"]))
                else:
                    assert reply.status_code == 200, reply.text
                    reply = browser.post(reply.url, data={"login": IDENTITY["login"], "password": "any"})
        assert reply.status_code == 303, reply.text
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
    provider = OAuthClientProvider(server_url=URL, client_metadata=metadata, storage=storage, redirect_handler=redirect, callback_handler=callback, client_metadata_url=DOCUMENT)
    async with httpx2.AsyncClient(auth=provider, follow_redirects=True, timeout=30) as http_client:
        over_sse = urlsplit(URL).path.endswith("/sse")
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
