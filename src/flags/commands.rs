//! The list of all subcommands, in the order in which help prints them.

use super::flag::Command;

/// The text of a command that only asks a running proxy.
const ASKS: &str = "\
A running proxy is asked, over a socket in its data directory.

Options:
  -d, --data-path DIR  the data directory of the proxy (env: DATA_PATH; default: ./data)
  --json               print JSON
";

/// The subcommands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "demo",
        args: "",
        help: "Run in front of a small built-in MCP server, with a generated password; store nothing",
        options: &[],
        more: "\
It listens on 127.0.0.1:8080, or on any free port if that is taken, and prints its URL, a password and the line to
paste into each client. State, secret and password are in memory: Ctrl-C ends it and leaves nothing behind.

All options are accepted; --listen, --external-url and --password are the useful ones.
",
    },
    Command {
        name: "check",
        args: "[--strict]",
        help: "Look at everything that serving with these options needs; change nothing",
        options: &[("strict", None)],
        more: "\
It takes the options, the URL or the command that serving takes, and prints a line for each thing that it looks at:
options and files, the data directory, ports, the certificate, the name in DNS, providers, and whether each MCP
server answers. The exit code is 0 if it can be served, 2 if something would fail, and with --strict 1 for a warning.

  mcp-auth-proxy check --servers mcp.json --external-url https://mcp.example.com
",
    },
    Command {
        name: "doctor",
        args: "URL [--client NAME]… [--json]",
        help: "Look at a public MCP server as each known client does; say what fails for which, and what to change",
        options: &[
            ("client", Some("NAME")),
            ("json", None),
            ("strict", None),
            ("token-file", Some("FILE")),
            ("no-registration", None),
        ],
        more: "\
It goes through name, addresses, certificate, challenge, metadata, registration, authorization, token endpoint and
CORS, of this proxy or of any other server. It signs in nowhere, and removes again what it registers, if it can.
The exit code is 0 if every client gets as far as the sign-in, 2 if one does not or the server is not safe, and with
--strict 1 for a warning. docs/doctor.md has all findings.

  mcp-auth-proxy doctor https://mcp.example.com/mcp

Options:
  --client NAME      only this client, such as claude, chatgpt or vscode; repeat it for several
  --json             print JSON
  --strict           warnings count in the exit code
  --token-file FILE  a token for the server, to look at a session and its event stream too; - is standard input
  --no-registration  register no client
  --ca-file FILE     authorities to trust besides the public ones (env: CA_FILE)
",
    },
    Command {
        name: "hash-password",
        args: "[--user NAME]",
        help: "Read a password and print a bcrypt hash for --password-hash",
        options: &[("user", Some("NAME"))],
        more: "\
On a terminal it asks twice and shows nothing; otherwise it reads the first line of standard input.

  mcp-auth-proxy --password-hash \"$(mcp-auth-proxy hash-password)\" http://127.0.0.1:3001

With --user NAME it prints a line for --htpasswd-file:

  mcp-auth-proxy hash-password --user alice >> users
",
    },
    Command {
        name: "healthcheck",
        args: "[--ready]",
        help: "Check that the proxy that uses --data-path answers; exit code 0 if it does",
        options: &[("ready", None)],
        more: "\
The proxy writes into its data directory where it listens, so no other option is needed.
If it does not answer, the exit code is 1 and standard error says why. The MCP server is not checked, unless --ready
is given: then its last answer, the store and the certificate have to be good, too.

Options:
  -d, --data-path DIR  the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "servers",
        args: "schema",
        help: "Print the JSON Schema of the servers file (--servers), for editors",
        options: &[],
        more: "\
An editor checks a file against it when the file names it:

  mcp-auth-proxy servers schema > servers.schema.json
  { \"$schema\": \"./servers.schema.json\", \"mcpServers\": { … } }
",
    },
    Command {
        name: "status",
        args: "[--json]",
        help: "Show how the running proxy is: servers, certificate, counts",
        options: &[("json", None)],
        more: ASKS,
    },
    Command {
        name: "backup",
        args: "FILE|-",
        help: "Copy everything that the running proxy keeps into a file: keys, clients, authorizations, sessions",
        options: &[],
        more: "\
The proxy goes on serving. The file has all keys in it, so only its owner can read it; '-' stands for standard output.

  mcp-auth-proxy backup /var/backups/mcp-auth-proxy
  docker exec mcp /mcp-auth-proxy backup - > mcp-auth-proxy.backup

Options:
  -d, --data-path DIR  the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "restore",
        args: "FILE|-",
        help: "Put a back-up into an empty data directory, before the proxy is started",
        options: &[],
        more: "\
What was revoked after the back-up was made can be used again, so think of ending it once more.

  mcp-auth-proxy restore /var/backups/mcp-auth-proxy --data-path ./data

Options:
  -d, --data-path DIR  the data directory, which is empty or not there yet (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "migrate",
        args: "[FILE|-] [-- COMMAND LINE]",
        help: "Read the settings of sigbit/mcp-auth-proxy; print those of this program, with each difference",
        options: &[("service", Some("NAME"))],
        more: "\
It reads a file with variables, what docker compose config --format json prints (--service NAME, if there are several),
and a command line behind --. It prints a file for --env-file. The exit code is 1 if something in it has to be decided first. docs/migrating.md has all differences.

  mcp-auth-proxy migrate old.env > new.env
  docker compose config --format json | mcp-auth-proxy migrate - > new.env
  mcp-auth-proxy migrate -- mcp-auth-proxy --external-url https://mcp.example.com --password x http://localhost:8080
",
    },
    Command {
        name: "clients",
        args: "list|add|remove",
        help: "List clients, and register those that act without a person",
        options: &[
            ("json", None),
            ("grant-type", Some("TYPE")),
            ("server", Some("NAME")),
            ("redirect-uri", Some("URI")),
            ("public", None),
            ("jwks-file", Some("FILE")),
            ("jwks-uri", Some("URL")),
            ("introspect", None),
            ("token-lifetime", Some("DURATION")),
        ],
        more: "\
  mcp-auth-proxy clients list [--json]
  mcp-auth-proxy clients add NAME [OPTIONS]      print client_id and client_secret; the secret is shown once
  mcp-auth-proxy clients remove CLIENT_ID        end everything that the client was given

Without options, a client gets tokens for itself with client_credentials. Options of add:
  --server NAME             a server of the servers file that it may use; repeat it for several; default: all
  --grant-type TYPE         client_credentials, jwt-bearer (enterprise-managed authorization), or authorization_code
  --redirect-uri URI        a client that a person allows at a browser; repeat it for several
  --public                  such a client without a secret
  --jwks-file FILE          its public keys (a JWK set), for private_key_jwt instead of a secret
  --jwks-uri URL            the same at a public https URL
  --introspect              a resource server that asks about tokens at /.idp/introspect
  --token-lifetime DURATION lifetime of its access tokens; default: --access-token-lifetime
  --json                    print JSON

A running proxy is asked, over a socket in its data directory:
  -d, --data-path DIR       the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "keys",
        args: "list|add|revoke",
        help: "List, make and revoke API keys, for --api-keys",
        options: &[("json", None), ("server", Some("NAME")), ("expires", Some("DURATION"))],
        more: "\
  mcp-auth-proxy keys list [--json]
  mcp-auth-proxy keys add NAME [--server NAME]… [--expires 90d]    print the key, which is shown once
  mcp-auth-proxy keys revoke NAME

A script sends the key as Authorization: Bearer map_… and is the user key:NAME in the rules of a server.

A running proxy is asked, over a socket in its data directory:
  -d, --data-path DIR       the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "grants",
        args: "list|revoke",
        help: "List what was allowed, and end it",
        options: &[
            ("json", None),
            ("user", Some("USER")),
            ("client", Some("CLIENT_ID")),
            ("before", Some("TIME")),
            ("all", None),
        ],
        more: "\
  mcp-auth-proxy grants list [--user USER] [--client CLIENT_ID] [--json]
  mcp-auth-proxy grants revoke GRANT…
  mcp-auth-proxy grants revoke --user USER | --client CLIENT_ID | --before 2026-01-31 | --all

USER is an id as in the log, such as htpasswd:alice, or an e-mail address. With several options, a grant ends if all
of them fit. Tokens are refused at once, open streams are cut, and remembered consents are forgotten.

A running proxy is asked, over a socket in its data directory:
  -d, --data-path DIR       the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "users",
        args: "list|sign-out",
        help: "List users with their browsers and applications, and sign them out",
        options: &[("json", None), ("apps", None)],
        more: "\
  mcp-auth-proxy users list [--json]
  mcp-auth-proxy users sign-out USER [--apps]    end the sessions of the user's browsers; with --apps, applications too

A running proxy is asked, over a socket in its data directory:
  -d, --data-path DIR       the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "sessions",
        args: "list",
        help: "List the MCP sessions with stdio servers",
        options: &[("json", None)],
        more: ASKS,
    },
    Command {
        name: "reload",
        args: "",
        help: "Have the running proxy read files again, as SIGHUP does, and say what came of it",
        options: &[("json", None)],
        more: ASKS,
    },
    Command {
        name: "keys-rotate",
        args: "[--compromised]",
        help: "Replace the keys that sign tokens, without a logout; or at once, after they leaked",
        options: &[("json", None), ("compromised", None)],
        more: "\
The previous keys verify for as long as anything that was signed with them lives, so nobody notices.

With --compromised they verify nothing from that moment: everybody signs in again, and stored data is encrypted anew.
See the runbook in docs/deployment.md.

A running proxy is asked, over a socket in its data directory:
  -d, --data-path DIR       the data directory of the proxy (env: DATA_PATH; default: ./data)
",
    },
    Command {
        name: "man",
        args: "",
        help: "Print the manual page (roff)",
        options: &[],
        more: "  mcp-auth-proxy man > ~/.local/share/man/man1/mcp-auth-proxy.1\n",
    },
    Command {
        name: "completions",
        args: "bash|zsh|fish",
        help: "Print a completion script for a shell",
        options: &[],
        more: "\x20 bash  mcp-auth-proxy completions bash > ~/.local/share/bash-completion/completions/mcp-auth-proxy
  zsh   mcp-auth-proxy completions zsh > a file _mcp-auth-proxy in a directory of $fpath
  fish  mcp-auth-proxy completions fish > ~/.config/fish/completions/mcp-auth-proxy.fish
",
    },
];

/// The commands that ask a running proxy.
pub(super) const CONTROL: [&str; 10] =
    ["status", "clients", "keys", "grants", "users", "sessions", "reload", "keys-rotate", "backup", "restore"];
