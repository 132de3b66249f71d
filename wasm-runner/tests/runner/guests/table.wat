;; Takes a table of a million entries, which is 8 MB, then answers 200. Fails when it does not get them.
(module
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (table $table 0 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (unreachable))
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
    (if (i32.eq (table.grow $table (ref.null func) (i32.const 1000000)) (i32.const -1))
      (then (unreachable)))
    (call $set (local.get $out) (i32.const 0) (call $response (call $fields))
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
