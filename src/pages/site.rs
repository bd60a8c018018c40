//! What all pages of this server have in common: whose they are, and how long access lasts.

use maud::{Markup, html};

use crate::url::ExternalUrl;

/// Largest file of a logo, in bytes.
pub const MAX_LOGO: usize = 64 << 10;

/// Whose pages these are.
#[derive(Clone, Debug)]
pub struct Site {
    /// The external URL.
    pub external: ExternalUrl,
    /// What the operator calls this server; `None` for its host name.
    pub name: Option<String>,
    /// The operator's logo.
    pub logo: Option<Logo>,
    /// How long access lasts that is not used, in seconds.
    pub unused_access: u64,
}

/// A picture, served from this origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logo {
    /// `image/svg+xml` or `image/png`.
    pub content_type: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Logo {
    /// A logo from the content of a file. `None` if it is neither PNG nor SVG.
    pub fn of(bytes: Vec<u8>) -> Option<Logo> {
        let content_type = match bytes.as_slice() {
            png if png.starts_with(b"\x89PNG\r\n\x1a\n") => "image/png",
            text if std::str::from_utf8(text).is_ok_and(|text| text.contains("<svg")) => "image/svg+xml",
            _ => return None,
        };
        Some(Logo { content_type, bytes })
    }
}

impl Site {
    /// A site without a name or a logo of its own.
    pub fn plain(external: ExternalUrl, unused_access: u64) -> Site {
        Site { external, name: None, logo: None, unused_access }
    }

    /// What people call this server.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.external.host)
    }

    /// The mark and the name at the top of each page.
    pub(super) fn header(&self) -> Markup {
        html! {
            header {
                @match &self.logo {
                    // Its own text says what it is.
                    Some(_) => img src="/.auth/logo" alt="" width="28" height="28";,
                    None => (mark()),
                }
                span { (self.title()) }
            }
        }
    }
}

/// A mark of no company: a door with a keyhole.
fn mark() -> Markup {
    html! {
        svg width="28" height="28" viewBox="0 0 28 28" aria-hidden="true" {
            rect x="3" y="2" width="22" height="24" rx="6" fill="currentColor" opacity=".16" {}
            circle cx="14" cy="12" r="3.2" fill="currentColor" {}
            path d="M12.6 13.5h2.8l1.3 6.5h-5.4z" fill="currentColor" {}
        }
    }
}

/// The letter of a way to sign in, in a frame: quiet, and the same for all.
pub(super) fn letter(text: &str) -> Markup {
    let first: String = text.chars().filter(|c| c.is_alphanumeric()).take(1).flat_map(char::to_uppercase).collect();
    html! { span .letter aria-hidden="true" { (first) } }
}
