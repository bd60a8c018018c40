//! JSON with comments and trailing commas, as VS Code writes it. Each value knows its line.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};

/// A value and the line that it starts on.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Switch(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

impl Value {
    /// A text, a number or a switch as it is written; else nothing.
    pub(super) fn written(&self) -> String {
        match self {
            Value::Text(text) | Value::Number(text) => text.clone(),
            Value::Switch(switch) => switch.to_string(),
            _ => String::new(),
        }
    }
}

/// A member of an object, with the line of its name.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Node {
    /// The members, if it is an object.
    pub(super) fn members(&self) -> Option<&[Member]> {
        match &self.value {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Switch(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

/// Reads a document. The error is the line, and what is wrong there. A name that stands twice in an object is an error.
pub(super) fn parse(text: &str) -> Result<Node, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = ParseOptions {
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
        ..ParseOptions::default()
    };
    let collect = CollectOptions { comments: CommentCollectionStrategy::Off, tokens: false };
    let parsed = parse_to_ast(text, &collect, &options)
        .map_err(|e| (e.line_display(), format!("this is not JSON: {}", e.kind().to_string().to_lowercase())))?;
    let root = parsed.value.ok_or((1, "the file is empty".to_string()))?;
    let lines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    node(root, &lines)
}

fn line(position: usize, lines: &[usize]) -> usize {
    1 + lines.partition_point(|end| *end < position)
}

fn node(value: ast::Value<'_>, lines: &[usize]) -> Result<Node, (usize, String)> {
    let at = line(value.start(), lines);
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(switch) => Value::Switch(switch.value),
        ast::Value::NumberLit(number) => Value::Number(number.value.to_string()),
        ast::Value::StringLit(text) => Value::Text(text.value.into_owned()),
        ast::Value::Array(list) => {
            Value::List(list.elements.into_iter().map(|element| node(element, lines)).collect::<Result<_, _>>()?)
        }
        ast::Value::Object(object) => {
            let mut members: Vec<Member> = Vec::new();
            for property in object.properties {
                let (name, line) = (property.name.as_str().to_string(), line(property.name.start(), lines));
                if let Some(first) = members.iter().find(|member| member.name == name) {
                    return Err((line, format!("'{name}' stands here and in line {}", first.line)));
                }
                members.push(Member { name, line, node: node(property.value, lines)? });
            }
            Value::Object(members)
        }
    };
    Ok(Node { line: at, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_commas_are_taken_and_lines_are_known() {
        let text = "\u{feff}{\n  // one\n  \"a\": [1, \"x\\u00e4\",],\n  /* two\n  */ \"b\": {\"c\": null, \"d\": true,},\n}\n";
        let root = parse(text).unwrap();
        let members = root.members().unwrap();
        assert_eq!(members.iter().map(|m| (m.name.as_str(), m.line)).collect::<Vec<_>>(), [("a", 3), ("b", 5)]);
        let Value::List(list) = &members[0].node.value else { panic!() };
        assert!(matches!(&list[1].value, Value::Text(text) if text == "xä"));
        assert!(matches!(&list[0].value, Value::Number(text) if text == "1"));
        assert_eq!(members[1].node.members().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_line() {
        for (text, line, want) in [
            ("", 1, "empty"),
            ("{\n\"a\": 1\n\"b\": 2}", 2, "not JSON"),
            ("{\n\n\"a\": 'x'}", 3, "not JSON"),
            ("{\"a\": 1,\n\"a\": 2}", 2, "line 1"),
            ("{a: 1}", 1, "not JSON"),
            ("{\"a\": 0x1}", 1, "not JSON"),
            ("{", 1, "not JSON"),
            ("{} x", 1, "not JSON"),
        ] {
            let (at, why) = parse(text).unwrap_err();
            assert!(at == line && why.contains(want), "{text}: {at} {why}");
        }
    }
}
