// Philox4x32 with 7 rounds (Salmon et al., SC 2011): the draws of dropout, the same on every back end.

// High 32 bits of the product of two unsigned 32-bit numbers.
fn mul_high(a: u32, b: u32) -> u32 {
  let low = a & 0xffffu;
  let high = a >> 16u;
  let b_low = b & 0xffffu;
  let b_high = b >> 16u;
  let middle = high * b_low + ((low * b_low) >> 16u);
  let carry = low * b_high + (middle & 0xffffu);
  return high * b_high + (middle >> 16u) + (carry >> 16u);
}

fn philox(start: vec4u, start_key: vec2u) -> vec4u {
  var counter = start;
  var key = start_key;
  for (var round = 0u; round < 7u; round++) {
    counter = vec4u(
      mul_high(0xcd9e8d57u, counter.z) ^ counter.y ^ key.x,
      0xcd9e8d57u * counter.z,
      mul_high(0xd2511f53u, counter.x) ^ counter.w ^ key.y,
      0xd2511f53u * counter.x,
    );
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return counter;
}
