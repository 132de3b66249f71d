//! Finds circles among the crates of the workspace and among the modules of each crate, and fails with those it finds.
//!
//! `scripts/check-graph.sh` builds this file alone (it needs only the standard library) and hands it what `cargo tree` says
//! of the crates. Cargo itself refuses circles of normal dependencies; here those of tests count as well, except the ones
//! into `testkit`, which is made from the libraries that it helps to test.
//!
//! A module uses another one when it names a path into it, with `use` or in place; a name that a parent passes on by `use`
//! stands for the module that it comes from. Among the children of one module there must be no circle. What lies between a
//! module and its own parents or children does not count, and neither does code under `#[cfg(test)]`. Modules in braces and
//! names that macros make are not seen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Names of modules from the crate's root down; empty for the root itself.
type Module = Vec<String>;

/// Who uses whom, each with a place that shows it.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

fn main() -> ExitCode {
    let tree = std::env::args().nth(1).expect("the output of cargo tree is named");
    let crates = crates(&fs::read_to_string(tree).expect("the output of cargo tree can be read"));
    let uses = crates.iter().map(|found| {
        let used = found.uses.iter().filter(|used| *used != "testkit");
        (found.name.clone(), used.map(|used| (used.clone(), "Cargo.toml".to_owned())).collect())
    });
    let mut found: Vec<_> = circles(uses.collect()).iter().map(|circle| format!("crates: {circle}")).collect();
    for Crate { name, folder, .. } in &crates {
        for (parent, graph) in module_graphs(&sources(&folder.join("src"))) {
            let parent = [&[name.clone()], &parent[..]].concat().join("::");
            found.extend(circles(graph).iter().map(|circle| format!("modules of {parent}: {circle}")));
        }
    }
    found.iter().for_each(|circle| eprintln!("a circle among the {circle}"));
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A crate of the workspace.
struct Crate {
    name: String,
    folder: PathBuf,
    /// Names of the crates of the workspace that it depends on.
    uses: Vec<String>,
}

/// Reads lines such as `0 bus v0.1.0 (/folder)`: a crate at depth 0, then what it depends on at depth 1.
fn crates(tree: &str) -> Vec<Crate> {
    let mut crates: Vec<Crate> = Vec::new();
    for line in tree.lines() {
        let mut words = line.split(' ');
        let (Some(depth), Some(name)) = (words.next(), words.next()) else { continue };
        // Only what lies in a folder here is of the workspace.
        let folder =
            words.find_map(|word| word.strip_prefix("(/")?.strip_suffix(')').map(|path| Path::new("/").join(path)));
        let Some(folder) = folder else { continue };
        match (depth, crates.last_mut()) {
            ("0", _) => crates.push(Crate { name: name.to_owned(), folder, uses: Vec::new() }),
            (_, Some(user)) => user.uses.push(name.to_owned()),
            (_, None) => {}
        }
    }
    crates
}

/// The text of each module's file below `src`.
fn sources(src: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(src.to_owned(), Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let child = [&module[..], &[name.clone()]].concat();
            if path.is_dir() && name != "tests" && name != "bin" {
                folders.push((path, child));
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
                // A program beside its library is a crate of its own that only calls it.
                let program = name == "main" && src.join("lib.rs").exists();
                let own = matches!(name.as_str(), "lib" | "main" | "mod");
                if !program {
                    let text = fs::read_to_string(&path).expect("a source file can be read");
                    found.insert(if own { module.clone() } else { child }, text);
                }
            }
        }
    }
    found
}

/// For each module that has children: which of these uses which.
fn module_graphs(sources: &BTreeMap<Module, String>) -> BTreeMap<Module, Graph> {
    let mut named = Vec::new();
    let mut passed_on = BTreeMap::new();
    for (module, text) in sources {
        let tokens = without_tests(&tokens(text));
        for Named { path, by_use } in paths(&tokens) {
            let Some(path) = absolute(module, &path, sources) else { continue };
            if let Some(alias) = by_use {
                passed_on.insert((module.clone(), alias), path.clone());
            }
            named.push((module, path));
        }
    }
    let mut graphs: BTreeMap<Module, Graph> = BTreeMap::new();
    for (user, path) in named {
        let used = home(&path, sources, &passed_on, 0);
        let shared = user.iter().zip(&used).take_while(|(own, other)| own == other).count();
        if let (Some(from), Some(to)) = (user.get(shared), used.get(shared)) {
            let place = format!("{} names crate::{}", user.join("::"), path.join("::"));
            let graph = graphs.entry(user[..shared].to_vec()).or_default();
            graph.entry(from.clone()).or_default().entry(to.clone()).or_insert(place);
        }
    }
    graphs
}

/// A path from the crate's root, or `None` for a path into another crate.
fn absolute(module: &[String], path: &[String], sources: &BTreeMap<Module, String>) -> Option<Module> {
    let first = path.first()?;
    let (mut from, mut rest) = match first.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        "super" => (module.to_vec(), path),
        _ if sources.contains_key(&[module, std::slice::from_ref(first)].concat()) => (module.to_vec(), path),
        _ => return None,
    };
    while rest.first().is_some_and(|name| name == "super") {
        from.pop();
        rest = &rest[1..];
    }
    from.extend_from_slice(rest);
    Some(from)
}

/// The module in which the thing at the end of a path stands.
fn home(
    path: &[String],
    sources: &BTreeMap<Module, String>,
    passed_on: &BTreeMap<(Module, String), Module>,
    depth: usize,
) -> Module {
    let mut at = Module::new();
    for (index, name) in path.iter().enumerate() {
        let child = [&at[..], std::slice::from_ref(name)].concat();
        if sources.contains_key(&child) {
            at = child;
            continue;
        }
        // Names that pass each other on in a circle do not compile; the limit only keeps this from trusting that.
        return match passed_on.get(&(at.clone(), name.clone())) {
            Some(origin) if depth < 8 => home(&[origin, &path[index + 1..]].concat(), sources, passed_on, depth + 1),
            _ => at,
        };
    }
    at
}

/// Words and punctuation of a source text, without comments and without what stands in quotes.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c));
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        if starts(at, "//") {
            while text.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < text.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if c == '"' {
            at += 1;
            while text.get(at).is_some_and(|c| *c != '"') {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            // A character in quotes, or else the mark of a lifetime.
            let length = if text.get(at + 1) == Some(&'\\') {
                text[at + 3..].iter().position(|c| *c == '\'').map(|end| end + 4)
            } else {
                (text.get(at + 2) == Some(&'\'')).then_some(3)
            };
            at += length.unwrap_or(1);
        } else if is_word(c) {
            let begin = at;
            while text.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
            let word: String = text[begin..at].iter().collect();
            let hashes = text[at..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br") && text.get(at + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += hashes + 1;
                while at < text.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                tokens.push(word);
            }
        } else {
            let length = if starts(at, "::") { 2 } else { 1 };
            if !c.is_whitespace() {
                tokens.push(text[at..at + length].iter().collect());
            }
            at += length;
        }
    }
    tokens
}

/// The tokens without each item that stands under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().take(mark.len()).eq(mark.iter()) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += mark.len();
        let mut depth = 0;
        while at < tokens.len() {
            let token = tokens[at].as_str();
            depth += match token {
                "{" => 1,
                "}" => -1,
                _ => 0,
            };
            at += 1;
            if depth == 0 && matches!(token, ";" | "}") {
                break;
            }
        }
    }
    kept
}

/// A path as it is written, and the name that a `use` gives it.
#[derive(Debug, PartialEq)]
struct Named {
    path: Vec<String>,
    by_use: Option<String>,
}

/// Every path that `use` names, and every other one that begins with `crate`, `self` or `super`.
fn paths(tokens: &[String]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = matches!(tokens[at].as_str(), "crate" | "self" | "super")
            && tokens.get(at + 1).is_some_and(|next| next == "::");
        if tokens[at] == "use" {
            at = tree(tokens, at + 1, &[], true, &mut found);
        } else if begins {
            at = tree(tokens, at, &[], false, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, or several in braces, that continue `prefix`; returns where they end.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], by_use: bool, found: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") if by_use => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    // Past the comma, and past what is no path, such as the variable of a macro.
                    let end = tree(tokens, at, &path, true, found);
                    at = if tokens.get(end).is_some_and(|token| token == "}") { end } else { end + 1 };
                }
                return at + 1;
            }
            // `use a::{self}` names `a`.
            Some("self") if !prefix.is_empty() => at += 1,
            Some(word) if word == "*" || word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned());
                at += 1;
            }
            // `Vec::<T>` and whatever else no module stands in.
            _ => {}
        }
        let ends = tokens.get(at).is_none_or(|token| token != "::");
        if ends {
            let alias = tokens.get(at).filter(|token| *token == "as").and_then(|_| tokens.get(at + 1));
            let name = alias.or(path.last()).cloned();
            at += if by_use && alias.is_some() { 2 } else { 0 };
            found.push(Named { path, by_use: name.filter(|_| by_use) });
            return at;
        }
        at += 1;
        if tokens.get(at).is_some_and(|token| token == "<") {
            found.push(Named { path, by_use: None });
            return at;
        }
    }
}

/// Circles of a graph that have no node in common, the shortest first, with the place that shows each step.
fn circles(mut graph: Graph) -> Vec<String> {
    let mut circles = Vec::new();
    while let Some(shortest) = graph.keys().filter_map(|begin| way_back(&graph, begin)).min_by_key(Vec::len) {
        let steps =
            shortest.windows(2).map(|step| format!("{} → {} ({})", step[0], step[1], graph[&step[0]][&step[1]]));
        circles.push(steps.collect::<Vec<_>>().join(", "));
        graph.retain(|node, _| !shortest.contains(node));
    }
    circles
}

/// The shortest way from a node over others back to itself.
fn way_back(graph: &Graph, begin: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([vec![begin.to_owned()]]);
    while let Some(way) = ways.pop_front() {
        for next in graph.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
            let longer = [&way[..], std::slice::from_ref(next)].concat();
            if next == begin {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push_back(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let module = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let sources = files.iter().map(|(name, text)| (module(name), text.to_string())).collect();
        module_graphs(&sources).into_values().flat_map(circles).collect()
    }

    #[test]
    fn modules_that_use_each_other_are_a_circle() {
        let found = found(&[("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "fn f() { crate::a::f() }")]);
        assert_eq!(found, ["a → b (a names crate::b::B), b → a (b names crate::a::f)"]);
    }

    #[test]
    fn circles_that_share_no_module_are_all_told() {
        let files = [("a", "use crate::b;"), ("b", "use crate::a;"), ("c", "use crate::d;"), ("d", "use crate::c;")];
        assert_eq!(found(&files).len(), 2);
    }

    #[test]
    fn a_longer_circle_is_found_in_braces_and_by_super() {
        let files = [
            ("", ""),
            ("a", "use crate::{x, b::{B, other::{self}}};"),
            ("b", "use super::c::{C as D};"),
            ("c", "use crate::a::*;"),
        ];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn a_name_that_the_root_passes_on_is_its_module_s() {
        let files = [("", "pub use a::A; mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "use crate::A;")];
        assert_eq!(found(&files), ["a → b (a names crate::b::B), b → a (b names crate::A)"]);
    }

    #[test]
    fn circles_are_found_below_the_root() {
        let files = [("", ""), ("down", ""), ("down::a", "use super::b::B;"), ("down::b", "use crate::down::a::A;")];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn parents_and_children_tests_comments_and_quotes_do_not_count() {
        let files = [
            ("", "use a::A; use b::B;"),
            ("a", "use crate::{Root, b::B}; use self::deep::Deep; struct A<'a>(&'a str); const C: char = '\"';"),
            ("a::deep", "use super::A; use crate::a::A as Again;"),
            (
                "b",
                r##"// use crate::a::A;
                /* crate::a::A */
                const TEXT: &str = "crate::a::A \" crate::a"; const RAW: &str = r#"crate::a " crate::a"#;
                #[cfg(test)] use crate::a::A;
                #[cfg(test)] mod tests { use crate::a::A; }"##,
            ),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn what_follows_a_test_is_seen_again() {
        let b = "#[cfg(test)] fn f() { if x { y } } fn g() { crate::a::f() }";
        assert_eq!(found(&[("", ""), ("a", "use crate::b::g;"), ("b", b)]).len(), 1);
    }

    #[test]
    fn crates_are_those_that_lie_in_a_folder() {
        let tree = "0 bus v0.1.0 (/w/libs/bus)\n1 margo v0.1.0 (/w/libs/margo) (*)\n1 serde v1.0.0\n\n0 margo v0.1.0 (/w/libs/margo)\n";
        let crates = crates(tree);
        let found: Vec<_> = crates.iter().map(|found| (found.name.as_str(), found.uses.clone())).collect();
        assert_eq!(found, [("bus", vec!["margo".to_owned()]), ("margo", vec![])]);
    }
}
