"""An MCP server behind the authorization server that comes with the Python SDK, as its users put it together; for doctor to look at.

usage: reference_server.py PORT
"""

import sys

import uvicorn
from mcp.server.auth.provider import OAuthAuthorizationServerProvider
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer

PORT = int(sys.argv[1])
BASE = f"http://localhost:{PORT}"


class Provider(OAuthAuthorizationServerProvider):
    """Nobody gets further than the page."""

    def __init__(self):
        self.clients = {}

    async def get_client(self, client_id):
        return self.clients.get(client_id)

    async def register_client(self, client_info):
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client, params):
        return f"{BASE}/sign-in"

    async def load_authorization_code(self, client, authorization_code):
        return None

    async def load_refresh_token(self, client, refresh_token):
        return None

    async def load_access_token(self, token):
        return None


auth = AuthSettings(issuer_url=BASE, resource_server_url=f"{BASE}/mcp", client_registration_options=ClientRegistrationOptions(enabled=True))
server = MCPServer("reference", auth_server_provider=Provider(), auth=auth)
print("ready", flush=True)
uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=PORT, log_level="error")
