;; Sends a request to the host and port NAME, over HTTP when SCHEME is 0 and over HTTPS when it is 1, and ends with success when
;; it is answered.
(module
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
    (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
    (func $set-authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
    (func $set-path (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]future-incoming-response.subscribe"
    (func $subscribe (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]future-incoming-response.get" (func $get (param i32 i32)))
  (import "wasi:http/outgoing-handler@0.2.0" "handle" (func $handle (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  (data (i32.const 1000) "/")
  (data (i32.const 1024) "NAME")
  ;; Errors may hold texts.
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $given i32)
    (local.set $given (global.get $free))
    (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 15)) (i32.const -16)))
    (local.get $given))
  (func (export "wasi:cli/run@0.2.0#run") (result i32)
    (local $request i32)
    (local $answer i32)
    (local.set $request (call $request (call $fields)))
    (drop (call $set-scheme (local.get $request) (i32.const 1) (i32.const SCHEME) (i32.const 0) (i32.const 0)))
    (drop (call $set-authority (local.get $request) (i32.const 1) (i32.const 1024) (i32.const LENGTH)))
    (drop (call $set-path (local.get $request) (i32.const 1) (i32.const 1000) (i32.const 1)))
    ;; The result: whether it failed, and 8 bytes on what it is.
    (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (return (i32.const 1))))
    (local.set $answer (i32.load (i32.const 8)))
    (call $block (call $subscribe (local.get $answer)))
    ;; Whether there is one, whether it is the first time, whether it failed: 8 bytes each.
    (call $get (local.get $answer) (i32.const 256))
    (i32.load8_u (i32.const 272))))
