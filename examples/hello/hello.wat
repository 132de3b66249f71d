;; Answers every request with "<GREETING> from Edgewright". By hand, so that it is small and needs no toolchain;
;; examples/hello-rust is the same in Rust. A test of wasm-runner proves that hello.wasm is made from this file and
;; wit/hello.wit; after a change, make it anew: UPDATE_GOLDEN=1 cargo test -p wasm-runner hello_wasm
(module
  (import "wasi:cli/environment@0.2.0" "get-environment" (func $get-environment (param $result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.append"
    (func $append (param $fields i32) (param $name i32) (param $length i32) (param $value i32) (param $length i32)
      (param $result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param $fields i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body"
    (func $body (param $response i32) (param $result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param $body i32) (param $result i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish"
    (func $finish (param $body i32) (param $has-trailers i32) (param $trailers i32) (param $result i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $set (param $out i32) (param $is-error i32) (param $response-or-code i32)
      (param i32 i64 i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write-and-flush (param $stream i32) (param $bytes i32) (param $length i32) (param $result i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param $stream i32)))

  ;; 0: texts, 1024: results of calls, 4096: what `cabi_realloc` gives out.
  (memory (export "memory") 1)
  (data (i32.const 0) "GREETING")
  (data (i32.const 8) "Hello")
  (data (i32.const 16) " from Edgewright\n")
  (data (i32.const 48) "content-type")
  (data (i32.const 64) "text/plain; charset=utf-8")
  (global $free (mut i32) (i32.const 4096))

  ;; Where the host puts what it returns. Nothing is given back: the instance ends with its request.
  (func (export "cabi_realloc")
    (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $given i32)
    ;; (free + align - 1) & -align
    (local.set $given
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $given) (local.get $size)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        (unreachable)))
    (local.get $given))

  ;; Writes bytes to the stream, at most 4096 at once. Stops early when the client has left.
  (func $write-all (param $stream i32) (param $bytes i32) (param $length i32)
    (local $part i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $length)))
        (local.set $part
          (select (local.get $length) (i32.const 4096) (i32.lt_u (local.get $length) (i32.const 4096))))
        (call $write-and-flush (local.get $stream) (local.get $bytes) (local.get $part) (i32.const 1024))
        (br_if $done (i32.load8_u (i32.const 1024)))
        (local.set $bytes (i32.add (local.get $bytes) (local.get $part)))
        (local.set $length (i32.sub (local.get $length) (local.get $part)))
        (br $next))))

  ;; The value of the environment variable GREETING, "Hello" without one.
  (func $greeting (result i32 i32)
    (local $entry i32) (local $end i32)
    (call $get-environment (i32.const 1024))
    ;; A list of (name, name's length, value, value's length).
    (local.set $entry (i32.load (i32.const 1024)))
    (local.set $end (i32.add (local.get $entry) (i32.mul (i32.load (i32.const 1028)) (i32.const 16))))
    (block $absent
      (loop $next
        (br_if $absent (i32.eq (local.get $entry) (local.get $end)))
        (if (i32.eq (i32.load offset=4 (local.get $entry)) (i32.const 8))
          (then
            ;; Eight bytes, compared as one number.
            (if (i64.eq (i64.load align=1 (i32.load (local.get $entry))) (i64.load (i32.const 0)))
              (then
                (return (i32.load offset=8 (local.get $entry)) (i32.load offset=12 (local.get $entry)))))))
        (local.set $entry (i32.add (local.get $entry) (i32.const 16)))
        (br $next)))
    (i32.const 8)
    (i32.const 5))

  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
    (local $fields i32) (local $response i32) (local $body i32) (local $stream i32)
    (local $greeting i32) (local $length i32)
    (local.set $fields (call $fields))
    (call $append (local.get $fields)
      (i32.const 48) (i32.const 12)
      (i32.const 64) (i32.const 25)
      (i32.const 1024))
    (local.set $response (call $response (local.get $fields)))
    (call $body (local.get $response) (i32.const 1024))
    (local.set $body (i32.load (i32.const 1028)))
    (call $set (local.get $out) (i32.const 0) (local.get $response)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (local.get $body) (i32.const 1024))
    (local.set $stream (i32.load (i32.const 1028)))
    (call $greeting)
    (local.set $length)
    (local.set $greeting)
    (call $write-all (local.get $stream) (local.get $greeting) (local.get $length))
    (call $write-all (local.get $stream) (i32.const 16) (i32.const 17))
    (call $drop-stream (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 1024))))
