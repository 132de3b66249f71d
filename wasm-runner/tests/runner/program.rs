//! Commands for tests, made of steps. Each is a core module of WASI preview 1, as compilers make it, with the adapter that turns
//! it into a component of WASI 0.2.

use std::fmt::Write;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

/// What a command does next. Each step that may fail writes a line `<step> <path>: <what was read><error of WASI, two digits>`.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Writes a line to stdout.
    Say(&'a str),
    /// Makes a file of the data folder with this content.
    Write(&'a str, &'a str),
    /// Writes what is in a file of the data folder to stdout.
    Read(&'a str),
    /// Makes a file of so many KiB in the data folder, up to where it fails.
    Fill(&'a str, u32),
    /// Makes a link to this target at this path of the data folder.
    Link(&'a str, &'a str),
    /// Removes a file of the data folder.
    Remove(&'a str),
    /// Ends with this code.
    Exit(u32),
    /// Waits for an hour.
    Wait,
    /// Computes for ever.
    Compute,
    /// Fails as a program does that has no way on.
    Trap,
}

/// Where the texts of the steps begin.
const TEXTS: usize = 16 << 10;

const HEAD: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd-write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd-read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd-close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path-open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $path-symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path-unlink-file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll-oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc-exit (param i32)))
  ;; 0: a piece of memory to read or write, 16: results of calls, 32: digits, 64: when to wake, 1024: what was read.
  (memory (export "memory") 2)
  (global $file (mut i32) (i32.const 0))

  (func $piece (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length)))

  (func $say (param $at i32) (param $length i32)
    (call $piece (local.get $at) (local.get $length))
    (drop (call $fd-write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))

  (func $tell (param $error i32)
    (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get $error) (i32.const 10))))
    (i32.store8 (i32.const 33) (i32.add (i32.const 48) (i32.rem_u (local.get $error) (i32.const 10))))
    (i32.store8 (i32.const 34) (i32.const 10))
    (call $say (i32.const 32) (i32.const 3)))

  ;; The first folder that the component gets, and the only one, is descriptor 3.
  (func $open (param $at i32) (param $length i32) (param $how i32) (param $rights i64) (result i32)
    (local $error i32)
    (local.set $error (call $path-open (i32.const 3) (i32.const 1) (local.get $at) (local.get $length)
      (local.get $how) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 20)))
    (global.set $file (i32.load (i32.const 20)))
    (local.get $error))

  (func $write (param $at i32) (param $length i32) (result i32)
    (call $piece (local.get $at) (local.get $length))
    (call $fd-write (global.get $file) (i32.const 0) (i32.const 1) (i32.const 16)))

  (func $read (result i32)
    (local $error i32)
    (call $piece (i32.const 1024) (i32.const 8192))
    (local.set $error (call $fd-read (global.get $file) (i32.const 0) (i32.const 1) (i32.const 16)))
    (if (i32.eqz (local.get $error)) (then (call $say (i32.const 1024) (i32.load (i32.const 16)))))
    (local.get $error))
"#;

/// Makes the component of a command that takes these steps, and ends with 0 unless one of them says otherwise.
pub fn program(steps: &[Step<'_>]) -> Vec<u8> {
    let (mut texts, mut code) = (String::new(), String::new());
    let mut at = TEXTS;
    // Returns where the text lies, as two arguments.
    let mut text = |text: &str| {
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(texts, "  (data (i32.const {at}) \"{escaped}\")").unwrap();
        let arguments = format!("(i32.const {at}) (i32.const {})", text.len());
        at += text.len();
        arguments
    };
    let failing = |named: String, open: String, then: String| {
        format!(
            "(call $say {named}) (local.set $error {open})
             (if (i32.eqz (local.get $error)) (then {then} (drop (call $fd-close (global.get $file)))))
             (call $tell (local.get $error))"
        )
    };
    for step in steps {
        let line = match *step {
            Step::Say(line) => format!("(call $say {})", text(&format!("{line}\n"))),
            Step::Write(path, content) => {
                let (named, path, content) = (text(&format!("write {path}: ")), text(path), text(content));
                failing(
                    named,
                    format!("(call $open {path} (i32.const 9) (i64.const 64))"),
                    format!("(local.set $error (call $write {content}))"),
                )
            }
            Step::Read(path) => {
                let (named, path) = (text(&format!("read {path}: ")), text(path));
                failing(
                    named,
                    format!("(call $open {path} (i32.const 0) (i64.const 2))"),
                    "(local.set $error (call $read))".to_owned(),
                )
            }
            Step::Fill(path, kib) => {
                let (named, path) = (text(&format!("fill {path}: ")), text(path));
                failing(
                    named,
                    format!("(call $open {path} (i32.const 9) (i64.const 64))"),
                    format!(
                        "(local.set $left (i32.const {kib}))
                         (loop $more
                           (local.set $error (call $write (i32.const 1024) (i32.const 1024)))
                           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                           (br_if $more (i32.and (i32.eqz (local.get $error)) (i32.ne (local.get $left) (i32.const 0)))))"
                    ),
                )
            }
            Step::Link(target, path) => {
                let (named, target, path) = (text(&format!("link {path}: ")), text(target), text(path));
                format!("(call $say {named}) (call $tell (call $path-symlink {target} (i32.const 3) {path}))")
            }
            Step::Remove(path) => {
                let (named, path) = (text(&format!("remove {path}: ")), text(path));
                format!("(call $say {named}) (call $tell (call $path-unlink-file (i32.const 3) {path}))")
            }
            Step::Exit(with) => format!("(call $proc-exit (i32.const {with}))"),
            Step::Wait => {
                "(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 3600000000000))
                 (drop (call $poll-oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 16)))"
                    .to_owned()
            }
            Step::Compute => "(loop $again (br $again))".to_owned(),
            Step::Trap => "unreachable".to_owned(),
        };
        writeln!(code, "    {line}").unwrap();
    }
    let module =
        format!("(module {HEAD}{texts}  (func (export \"_start\") (local $error i32) (local $left i32)\n{code}))");
    ComponentEncoder::default()
        .module(&wat::parse_str(module).unwrap())
        .unwrap()
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}
