/** Bytes that a workgroup of it copies. */
export const COPY_BYTES_A_WORKGROUP = 16384;

/**
 * WGSL that copies a buffer: 256 invocations, four vectors of 16 bytes each, 256 apart. A shader, since a driver may leave
 * `copyBufferToBuffer` to an engine of its own that is slower than memory: on an H100 it moves 850 GB/s, whatever the size.
 */
const WGSL: string = `
@group(0) @binding(0) var<storage, read> from_: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4u>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let at = id.x * 1024 + thread;
  let x = array(from_[at], from_[at + 256], from_[at + 512], from_[at + 768]);
  to[at] = x[0];
  to[at + 256] = x[1];
  to[at + 512] = x[2];
  to[at + 768] = x[3];
}
`;
export default WGSL;
