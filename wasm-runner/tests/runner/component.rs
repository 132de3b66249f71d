//! Makes components of the texts in `guests/` and `examples/`, and checks that the sample is what its sources give.

use std::{
    fs,
    path::{Path, PathBuf},
};

use margo::ApplicationDescription;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Returns the path of something in `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// The component made of this text and the world of the example `hello`.
pub fn componentize(wat: &Path) -> Vec<u8> {
    componentize_text(&fs::read_to_string(wat).unwrap())
}

/// Makes a component that takes some seconds to compile.
pub fn long_to_compile() -> Vec<u8> {
    let mut text = String::from("(module (func (export \"wasi:http/incoming-handler@0.2.0#handle\") (param i32 i32)\n");
    for step in 0..40_000 {
        text.push_str(&format!("(if (local.get 0) (then (local.set 1 (i32.mul (local.get 0) (i32.const {step})))))\n"));
    }
    text.push_str("))");
    componentize_text(&text)
}

fn componentize_text(wat: &str) -> Vec<u8> {
    componentize_for(wat, &example("hello/wit/hello.wit"), "hello")
}

fn componentize_for(wat: &str, wit: &Path, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_file(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runner/guests")
}

/// Makes the component of a command in `guests/`, which has the world of its name in `guests.wit`, with these words in the place
/// of others.
pub fn command(name: &str, words: &[(&str, &str)]) -> Vec<u8> {
    let text = fs::read_to_string(guests().join(name).with_extension("wat")).unwrap();
    let replace = |text: String, (word, with): &(&str, &str)| {
        assert!(text.contains(word), "{name} has no {word}");
        text.replace(word, with)
    };
    let text = words.iter().fold(text, replace);
    componentize_for(&text, &guests().join("guests.wit"), name)
}

/// Makes the component of a text in `guests/`, which is named without its ending.
pub fn guest(name: &str) -> Vec<u8> {
    componentize(&guests().join(name).with_extension("wat"))
}

#[test]
fn hello_wasm_is_what_its_sources_give() {
    let made = componentize(&example("hello/hello.wat"));
    let file = example("hello/hello.wasm");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let kept = fs::read(&file).unwrap_or_default();
    assert!(kept == made, "{} is out of date: run this test with UPDATE_GOLDEN=1", file.display());
}

#[test]
fn the_examples_are_valid_applications() {
    for name in ["hello", "hello-rust"] {
        let text = fs::read(example(name).join("margo.yaml")).unwrap();
        let description = ApplicationDescription::parse(&text, "margo.yaml").unwrap();
        assert_eq!(description.id.as_str(), name);
        assert_eq!(description.data_type("greeting"), Some(margo::DataType::Text));
        assert_eq!(description.profile("wasm").unwrap().components[0].name.as_str(), name);
    }
}
