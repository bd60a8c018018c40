//! Every text that people see on pages, in one table: of one voice, and in one place for other languages. What stands in `{braces}` is
//! filled in by [`fill`] or [`fill_plain`], in whatever order a language wants.
//!
//! Log messages, and what clients are told, are not here: they are for operators and programs, and stay in English.

use maud::{Markup, html};

/// The text with its parts filled in, as HTML.
pub(super) fn fill(text: &'static str, parts: &[(&str, Markup)]) -> Markup {
    html! {
        @for (before, part) in pieces(text) {
            (before)
            @if let Some((_, markup)) = part.and_then(|name| parts.iter().find(|(known, _)| *known == name)) { (markup) }
        }
    }
}

/// The same as plain text.
pub(crate) fn fill_plain(text: &'static str, parts: &[(&str, &str)]) -> String {
    let value = |name: &str| parts.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
    pieces(text).into_iter().flat_map(|(before, part)| [before, part.map_or("", value)]).collect()
}

/// Text, each with the name of the part behind it; the last one has none.
fn pieces(text: &'static str) -> Vec<(&'static str, Option<&'static str>)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, (name, after))) = rest.split_once('{').and_then(|(b, a)| Some((b, a.split_once('}')?))) {
        pieces.push((before, Some(name)));
        rest = after;
    }
    pieces.push((rest, None));
    pieces
}

// On several pages

pub(crate) const ALLOW: &str = "Allow";
pub(crate) const DENY: &str = "Deny";
pub(crate) const SIGN_IN: &str = "Sign in";
pub(crate) const SIGN_OUT: &str = "Sign out";
pub(crate) const OR: &str = "or";
pub(crate) const APPLICATIONS_WITH_ACCESS: &str = "Applications with access";
pub(crate) const ANOTHER_ACCOUNT: &str = "Use another account";
pub(crate) const UNNAMED: &str = "Unnamed application";
pub(crate) const THE_OWNER: &str = "the owner";
pub(crate) const LIST: &str = "{first} and {last}";
pub(crate) const A_DAY: &str = "a day";
pub(crate) const DAYS: &str = "{count} days";
pub(crate) const A_SECOND: &str = "a second";
pub(crate) const SECONDS: &str = "{count} seconds";
pub(crate) const MINUTES: &str = "{count} minutes";
pub(crate) const TIME: &str = "{day} {month} {year}, {time} UTC";
pub(crate) const PROTECTED_BY: &str = "protected by mcp-auth-proxy";
pub(crate) const REQUEST: &str = "request {id}";
pub(crate) const LOCAL_PROGRAM: &str = "a program on this computer";
pub(crate) const OF_LINKS: &str = "the program that opens {scheme}: links";

// Signing in

pub(crate) const SIGN_IN_TO: &str = "Sign in to {site}";
pub(crate) const WRONG_NAME: &str = "That name and password don't fit. Try again.";
pub(crate) const WRONG_PASSWORD: &str = "That password is not right. Try again.";
pub(crate) const TOO_MANY_WRONG: &str = "There were too many wrong passwords. Wait {time} and try again.";
pub(crate) const BUSY: &str = "Too many people are signing in at this moment. Try again in a few seconds.";
pub(crate) const SIGN_IN_TO_ALLOW: &str = "Sign in to allow access.";
pub(crate) const SIGN_IN_TO_CHOOSE: &str = "Sign in to choose what it may use.";
pub(crate) const NAME_FIELD: &str = "Name";
pub(crate) const NAME_MAY_BE_EMPTY: &str = " (empty for the password that all share)";
pub(crate) const PASSWORD_FIELD: &str = "Password";
pub(crate) const SIGN_IN_AND_ALLOW: &str = "Sign in and allow";
pub(crate) const SIGN_IN_WITH: &str = "Sign in with {provider}";
pub(crate) const SIGN_IN_WITH_AND_ALLOW: &str = "Sign in with {provider} and allow";
pub(crate) const PROVIDER_IS_DOWN: &str = "{provider} can't be reached at the moment.";
pub(crate) const SIGNING_IN: &str = "Signing in";
pub(crate) const SIGNING_IN_WITH: &str = "Signing in with {provider}";
pub(crate) const CONTINUE_TO: &str = "Continue to {provider}";
pub(crate) const NOT_SIGNED_IN_TITLE: &str = "Not signed in";
pub(crate) const NOT_SIGNED_IN: &str = "You are not signed in";
pub(crate) const CANCELLED: &str = "The sign-in was cancelled at {provider}.";
pub(crate) const DID_NOT_SIGN_IN: &str = "{provider} did not sign you in.";
pub(crate) const TRY_AGAIN_OR_CLOSE: &str = "You can try again, or close this page.";
pub(crate) const NO_ACCESS_TITLE: &str = "No access";
pub(crate) const NO_ACCESS: &str = "You have no access";
pub(crate) const ACCOUNT_NOT_ALLOWED: &str =
    "At {provider} you are signed in as {user}. This account may not use this server.";
pub(crate) const UNVERIFIED_ACCOUNT: &str = "an account without a verified e-mail address";
pub(crate) const SIGN_IN_WITH_ANOTHER: &str =
    "If you have another account, sign in with that one. Otherwise ask the operator of this server.";
pub(crate) const SIGNED_OUT_TITLE: &str = "Signed out";
pub(crate) const SIGNED_OUT: &str = "You are signed out";
pub(crate) const SIGNED_OUT_MEANS: &str = "This browser is signed out. Applications that you allowed before stay connected: sign in again to see or end what they may do.";
pub(crate) const SIGN_IN_AGAIN: &str = "Sign in again";

// Consent

pub(crate) const WANTS_TO_USE: &str = "{client} wants to use {what}";
pub(crate) const NO_NAME: &str = "An application without a name";
pub(crate) const SERVERS_OF: &str = "servers of {site}";
pub(crate) const SERVERS_CHOSEN: &str = "the servers that you choose";
pub(crate) const TICK_ONE: &str = "Tick at least one server, or deny the access.";
pub(crate) const TICK_FEWER: &str = "Tick at most {most} servers.";
pub(crate) const SIGNED_IN_AS_CAN_END: &str = "Signed in as {user}. You can end an access at any time: {account}";
pub(crate) const ACCOUNT_LINK: &str = "applications with access";
pub(crate) const WHICH_SERVERS: &str = "Which servers may it use?";
pub(crate) const MAY_NOT_USE: &str = "You are signed in as {user}. This account may not use {what}.";
pub(crate) const ANY_SERVER: &str = "any server here";
pub(crate) const USE_ANOTHER: &str =
    "If you have another account, use that one. Otherwise ask the operator of this server.";
pub(crate) const GO_BACK: &str = "Go back";
pub(crate) const FAULTY_TITLE: &str = "Faulty request";
pub(crate) const FAULTY: &str = "The application's request can't be answered";
pub(crate) const FAULTY_WHY: &str = "It asked for access, but: {why}. Access was not given.";
pub(crate) const FAULTY_NEXT: &str = "You can go back to {place} if you came from there.";
pub(crate) const GO_BACK_TO: &str = "Go back to {place}";
pub(crate) const ACCESS_GOES_TO: &str = "Access goes to";
pub(crate) const NAME: &str = "Name";
pub(crate) const NAME_UNVERIFIED: &str = "Name (unverified)";
pub(crate) const DESCRIBED_BY: &str = "Described by";
pub(crate) const ABLE_TO: &str = "It will be able to";
pub(crate) const ABLE_TO_WHAT: &str = "read and do everything that {what} can do, in your name. {end}";
pub(crate) const UNTIL: &str = "This ends when you remove the server in the application, or {time} after its last use.";
pub(crate) const LOCAL_WITH_DOCUMENT: &str = "The name is from a description at {host}. Any program on this computer can use that description, so it proves nothing. Go on only if you have just connected one yourself.";
pub(crate) const LOCAL: &str =
    "Any program on this computer can ask in this way. Go on only if you have just connected one yourself.";

// The account

pub(crate) const SIGNED_IN_AS_SERVERS: &str = "You are signed in as {user}. {servers}";
pub(crate) const SERVERS: &str = "Servers";
pub(crate) const NO_APPLICATION: &str = "No application has access in your name.";
pub(crate) const DISCONNECTING_MEANS: &str = "Disconnecting ends an application's access at once. It has to ask you again, also if you have told this server to remember your consent. Signing out of this browser does not disconnect applications.";
pub(crate) const DISCONNECT: &str = "Disconnect";
pub(crate) const DISCONNECT_ONE: &str = "Disconnect {client}";
pub(crate) const DISCONNECT_ALL: &str = "Disconnect all applications";
pub(crate) const BROWSERS: &str = "Browsers that are signed in";
pub(crate) const SIGN_OUT_ONE: &str = "Sign out {browser}";
pub(crate) const SIGN_OUT_OTHERS: &str = "Sign out all other browsers";
pub(crate) const HAD_NO_ACCESS: &str = "It had no access any more.";
pub(crate) const DISCONNECTED: &str = "Disconnected. Its next request is refused.";
pub(crate) const WAS_SIGNED_OUT: &str = "It was signed out already.";
pub(crate) const BROWSER_SIGNED_OUT: &str = "The browser is signed out.";
pub(crate) const BROWSERS_SIGNED_OUT: &str = "{count} browsers are signed out.";
pub(crate) const WHERE: &str = "Where";
pub(crate) const YOUR_COMPUTER: &str = "a program on your computer";
pub(crate) const MAY_USE: &str = "May use";
pub(crate) const SINCE: &str = "Since";
pub(crate) const LAST_USED: &str = "Last used";
pub(crate) const LAST_USED_FROM: &str = "{time}, from {address}";
pub(crate) const NOT_YET: &str = "not yet";
pub(crate) const A_BROWSER: &str = "A browser";
pub(crate) const THIS_ONE: &str = " (this one)";
pub(crate) const BROWSER_SINCE: &str = ", since {time}";
pub(crate) const BROWSER_FROM: &str = ", from {address}";

// The servers

pub(crate) const MCP_SERVERS_TITLE: &str = "MCP servers";
pub(crate) const MCP_SERVERS_OF: &str = "MCP servers of {site}";
pub(crate) const WHAT_IT_IS: &str =
    "This is where applications such as Claude, ChatGPT, Cursor or VS Code reach the MCP servers of {site}.";
pub(crate) const SIGN_IN_TO_SEE: &str =
    "Sign in to see which of them you may use, and how to add one to an application.";
pub(crate) const SIGNED_IN_TITLE: &str = "Signed in";
pub(crate) const SIGNED_IN: &str = "You are signed in";
pub(crate) const NO_SERVER: &str = "There is no MCP server here that you may use. Ask the operator of this server.";
pub(crate) const GIVE_URL: &str =
    "Give the URL of a server to an application. It will open a page here and ask for your consent.";
pub(crate) const IN_CLAUDE: &str = "In Claude and ChatGPT, add the URL as a custom connector in the settings.";
pub(crate) const SIGNED_IN_HERE: &str = "Signed in as {user} in this browser.";
pub(crate) const DID_NOT_ANSWER: &str = "It did not answer the last time that it was asked.";
pub(crate) const ADD_TO_CURSOR: &str = "Add to Cursor";
pub(crate) const ADD_TO_VSCODE: &str = "Add to VS Code";
pub(crate) const COMMANDS_FOR: &str = "Commands for Claude Code, Codex and Gemini CLI";
pub(crate) const MCP_SERVER_TITLE: &str = "MCP server";
pub(crate) const IS_MCP_SERVER: &str = "This is an MCP server";
pub(crate) const FOR_APPLICATIONS: &str =
    "It is meant for applications such as Claude, ChatGPT, Cursor or VS Code. Add it there with this URL:";
pub(crate) const WILL_OPEN: &str = "The application will open a page here to ask for your consent. {more}";
pub(crate) const MORE_ABOUT: &str = "More about this server";

// A request that can't be answered to the client

pub(crate) const MALFORMED: &str = "The request is malformed";
pub(crate) const UNREADABLE: &str = "The parameters can't be read: {why}.";
pub(crate) const NAMES_NO_CLIENT: &str = "It names no client (client_id).";
pub(crate) const FAULTY_PARAMETER: &str = "It asked for access, but: {why}.";
pub(crate) const NOT_REGISTERED: &str = "The application is not registered here";
pub(crate) const NOT_REGISTERED_WHY: &str =
    "Its registration has expired, or was made with another server (client_id).";
pub(crate) const DOCUMENT_REFUSED: &str = "The application's description is not accepted";
pub(crate) const DOCUMENT_UNREACHABLE: &str = "The application's description can't be read at the moment";
pub(crate) const OTHER_USES: &str = "The application can't ask for access";
pub(crate) const OTHER_USES_WHY: &str = "The operator has registered it for other uses.";
pub(crate) const NOT_WHAT_IT_SEEMS: &str = "The application is not what it seems";
pub(crate) const FOREIGN_REDIRECT: &str =
    "It asked for a redirect to an address that it has not registered (redirect_uri).";

// What went wrong

pub(crate) const TELL_CODE: &str =
    "If it stays like this, tell the operator of this server the code {id}: the log has it.";
pub(crate) const START_AGAIN: &str = "Go back to the application and start connecting again.";
pub(crate) const START_AGAIN_LATER: &str = "Go back to the application and start connecting again in a minute.";
pub(crate) const CONNECT_AGAIN: &str = "Go back to the application, remove this server from it and add it again.";
pub(crate) const TRY_AGAIN: &str = "Go back and try again.";
pub(crate) const TRY_AGAIN_LATER: &str = "Go back and try again in a minute.";
pub(crate) const NOT_GIVEN: &str = "Access was not given";
pub(crate) const ENDED: &str = "The consent for this application has been ended in the meantime.";
pub(crate) const FORM_NOT_READ: &str = "The form could not be read";
pub(crate) const SENTENCE: &str = "{why}.";
pub(crate) const FOREIGN_FORM: &str = "This form came from another site";
pub(crate) const FOREIGN_FORM_WHY: &str = "The form was not sent from a page of this server at this address.";
pub(crate) const PAGE_USED: &str = "This page has been used already.";
pub(crate) const TOO_MANY_APPLICATIONS: &str = "You have let too many applications in within a minute.";
pub(crate) const NOT_POSSIBLE: &str = "Not possible at the moment";
pub(crate) const CANT_SAVE: &str = "The server can't save anything just now.";
pub(crate) const IN_THE_LOG: &str = "Try again in a minute. Its operator finds the reason in the log.";
pub(crate) const TOO_MANY_SIGN_INS: &str = "Too many sign-ins";
pub(crate) const TOO_MANY_SIGN_INS_WHY: &str = "There were too many sign-ins from your network in a short time.";
pub(crate) const TOO_MANY_REQUESTS: &str = "Too many requests";
pub(crate) const TOO_MANY_REQUESTS_WHY: &str = "There were too many requests from your network in a short time.";
pub(crate) const NO_COOKIE: &str = "Your browser sent no cookie";
pub(crate) const NO_COOKIE_WHY: &str = "Signing in needs a cookie of {host}, and your browser sent none with the form.";
pub(crate) const NO_COOKIE_NEXT: &str = "Allow cookies for {host} in the settings of your browser, or use a window that is not private. Then go back to the application and start connecting again.";
pub(crate) const STALE: &str = "This page is no longer valid";
pub(crate) const STALE_WHY: &str = "The form was too old, or was opened in another browser.";
pub(crate) const PROVIDER_UNREACHABLE: &str = "{provider} can't be reached";
pub(crate) const PROVIDER_UNREACHABLE_WHY: &str = "Signing in there is not possible at the moment.";
pub(crate) const PROVIDER_UNREACHABLE_NEXT: &str = "Go back and try again in a minute, or choose another way to sign in. The operator of this server finds the reason in the log.";
pub(crate) const PROVIDER_FAILED: &str = "The sign-in failed";
pub(crate) const PROVIDER_FAILED_WHY: &str = "What {provider} answered could not be accepted.";
pub(crate) const PROVIDER_FAILED_NEXT: &str =
    "Go back to the application and start connecting again. The operator of this server finds the reason in the log.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_filled_in_and_escaped() {
        let markup = fill("{user} and <b> {user}, {other}.", &[("user", html! { em { "A&B" } })]);
        assert_eq!(markup.into_string(), "<em>A&amp;B</em> and &lt;b&gt; <em>A&amp;B</em>, .");
        assert_eq!(fill_plain("{a}-{b}{c", &[("a", "1"), ("b", "{a}")]), "1-{a}{c");
    }

    #[test]
    fn pages_have_no_text_of_their_own() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
        for file in ["account", "consent", "home", "layout", "message", "sign_in", "site", "text"] {
            let text = std::fs::read_to_string(format!("{source}pages/{file}.rs")).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let code: String =
                code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            // Two words in quotation marks; what is for a browser or a shell has other signs in it.
            let is_text = |quoted: &&str| {
                quoted.contains(' ')
                    && quoted.chars().all(|c| c.is_alphabetic() || " .,:?'()-{}".contains(c))
                    && quoted.chars().any(char::is_alphabetic)
            };
            let found: Vec<&str> = code.split('"').skip(1).step_by(2).filter(is_text).collect();
            assert!(found.iter().all(|text| SHELL.iter().any(|word| text.contains(word))), "{file}.rs: {found:?}");
        }
    }

    /// Parts of commands, which are the same in every language.
    const SHELL: [&str; 3] = [" mcp add ", " --url ", " --transport "];
}
