//! Promise: the modules of this crate can be read from the bottom up. No module names, directly or through others, a
//! module that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which modules each module names.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_module_imports_itself_through_others() {
    let imports = imports_of_this_crate();
    assert!(imports["job"].contains("thread"), "the imports were read: {imports:?}");
    assert_eq!(cycle_in(&imports), None, "{imports:#?}");
}

/// The rule can fail, in each of the ways in which an import can be written.
#[test]
fn the_rule_finds_what_it_forbids() {
    let cases = [
        ("use crate::b::B;", "use crate::a::A;"),
        ("use crate::{c, b::B};", "use crate::{\n    c::{self, C},\n    a,\n};"),
        ("pub(crate) use crate::b;", "fn f() {\n    crate::a::f();\n}"),
    ];
    for (a, b) in cases {
        let imports = [("a", a), ("b", b), ("c", "")].map(|(name, source)| (name.into(), modules_named_in(source)));
        let cycle = cycle_in(&imports.into()).expect(a);
        assert_eq!(cycle, ["a", "b", "a"], "{a} {b}");
    }
    let through_a_third = [("a", "use crate::b;"), ("b", "use crate::c;"), ("c", "use crate::a;")];
    let imports = through_a_third.map(|(name, source)| (name.into(), modules_named_in(source)));
    assert_eq!(cycle_in(&imports.into()).unwrap(), ["a", "b", "c", "a"]);
}

#[test]
fn comments_are_no_imports() {
    assert_eq!(
        modules_named_in("//! See `crate::a`.\nlet x = 1; // as crate::b does"),
        BTreeSet::new()
    );
}

fn imports_of_this_crate() -> Imports {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let modules = files.map(|file| {
        let source = fs::read_to_string(&file).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, modules_named_in(&source))
    });
    modules.filter(|(name, _)| name != "lib").collect()
}

/// The first part of every path that begins with `crate::`, also of those in braces.
fn modules_named_in(source: &str) -> BTreeSet<String> {
    let code: Vec<_> = source.lines().map(|line| line.split("//").next().unwrap()).collect();
    let code = code.join("\n");
    let paths = code.split("crate::").skip(1);
    paths.flat_map(first_parts).collect()
}

/// `a::b` gives `a`. `{a::{b, c}, d}` gives `a` and `d`.
fn first_parts(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return Vec::from_iter(identifier_at_start(path));
    };
    let mut depth = 0;
    let end = group.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth < 0
    });
    let group = &group[..end.unwrap_or(group.len())];
    let mut depth = 0;
    let parts = group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts
        .filter_map(|part| identifier_at_start(part.trim_start()))
        .collect()
}

fn identifier_at_start(text: &str) -> Option<String> {
    let identifier: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!identifier.is_empty()).then_some(identifier)
}

/// The modules on a cycle, the first of them again at the end.
fn cycle_in(imports: &Imports) -> Option<Vec<String>> {
    imports
        .keys()
        .find_map(|start| path_back_to(start, &mut vec![start.clone()], imports))
}

fn path_back_to(start: &str, path: &mut Vec<String>, imports: &Imports) -> Option<Vec<String>> {
    for next in imports.get(path.last()?).into_iter().flatten() {
        if next == start {
            path.push(next.clone());
            return Some(path.clone());
        }
        if !path.contains(next) {
            path.push(next.clone());
            if let Some(found) = path_back_to(start, path, imports) {
                return Some(found);
            }
            path.pop();
        }
    }
    None
}
