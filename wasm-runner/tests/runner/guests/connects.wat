;; Connects to 127.0.0.A:PORT, which stand for numbers, and ends with success when it is connected.
(module
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
  (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $create (param i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-connect"
    (func $start (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.subscribe" (func $subscribe (param i32) (result i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.finish-connect" (func $finish (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "wasi:cli/run@0.2.0#run") (result i32)
    (local $socket i32)
    ;; An address family: 0 is IPv4. The result: whether it failed, and the socket.
    (call $create (i32.const 0) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (return (i32.const 1))))
    (local.set $socket (i32.load (i32.const 4)))
    (call $start (local.get $socket) (call $network) (i32.const 0)
      (i32.const PORT) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const A)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (return (i32.const 1))))
    (call $block (call $subscribe (local.get $socket)))
    (call $finish (local.get $socket) (i32.const 32))
    (i32.load8_u (i32.const 32))))
