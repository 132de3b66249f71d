;; Asks for the addresses of NAME, and ends with success when it may.
(module
  (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
  (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses" (func $resolve (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "NAME")
  (func (export "wasi:cli/run@0.2.0#run") (result i32)
    (call $resolve (call $network) (i32.const 64) (i32.const LENGTH) (i32.const 0))
    (i32.load8_u (i32.const 0))))
