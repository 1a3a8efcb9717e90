// Terms of each query row for the backward: lse, delta = rowsum(dout * out), and flags for what is no number.
// A workgroup takes 16 rows, 16 threads each.

//#include "lib/backward-args.wgsl"

@group(0) @binding(0) var<uniform> args: BackwardArgs;
//#if Y_QUADS
@group(0) @binding(1) var<storage, read> out: array<Quad_${RESULT}>;
@group(0) @binding(2) var<storage, read> dout: array<Quad_${RESULT}>;
//#else
@group(0) @binding(1) var<storage, read> out: array<u32>;
@group(0) @binding(2) var<storage, read> dout: array<u32>;
//#endif
@group(0) @binding(3) var<storage, read> lse: array<u32>;
@group(0) @binding(4) var<storage, read_write> workspace: array<u32>;
//#if MASK
@group(0) @binding(5) var<storage, read> mask: array<u32>;
//#endif

var<workgroup> sums_smem: array<f32, 256>;
// Bit 0: out holds NaN or Inf, bit 1: dout does.
var<workgroup> bad_smem: array<u32, 256>;

struct Loaded {
  x: vec4f,
  bad: u32,
}

//#for n in 2
fn load_${n}(at: u32, there: u32) -> Loaded {
//#if Y_QUADS
//#if n == 0
  let words = out[at / 4u];
//#else
  let words = dout[at / 4u];
//#endif
  let bad = nonfinite_quad_${RESULT}(words);
  return Loaded(select(quad_${RESULT}(words), vec4f(0.0), bad != 0u), bad);
//#else
  let per_word = elements_per_word(${RESULT}u);
  var bits = vec4u(0u);
  var bad = 0u;
  for (var e = 0u; e < there; e++) {
//#if n == 0
    let element = widen(${RESULT}u, out[(at + e) / per_word], (at + e) % per_word);
//#else
    let element = widen(${RESULT}u, dout[(at + e) / per_word], (at + e) % per_word);
//#endif
    bad |= select(1u, 0u, is_finite(element));
    bits[e] = select(0u, element, is_finite(element));
  }
  return Loaded(bitcast<vec4f>(bits), bad);
//#endif
}
//#endfor

fn sees_any(b: u32, h: u32, i: u32) -> bool {
  let range = key_range(i, i, args.keys);
//#if MASK
  let head = head_of_mask(b, h);
  for (var j = range.begin; j < range.end; j++) {
    if (visible(head, i, j)) {
      return true;
    }
  }
  return false;
//#else
  return range.begin < range.end;
//#endif
}

//#if MASK
fn head_of_mask(b: u32, h: u32) -> Head {
  var head: Head;
  head.mask = b * args.score.mask_b + h * args.score.mask_h - args.score.mask_first;
  return head;
}
//#endif

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = workgroup_index(args.launch, id, count);
  if (group >= args.launch.end) {
    return;
  }
  let n = group * 16u + thread / 16u;
  let lane = thread % 16u;
  let query_heads = args.heads * args.group;
  let is_row = n < args.batches * query_heads * args.rows;
  let i = n % args.rows;
  let h = n / args.rows % query_heads + args.head_first * args.group;
  let b = n / (args.rows * query_heads) + args.batch_first;
  let row = b * args.batch_3 + h * args.head_3 + i * args.row_3;

  var sum = vec4f(0.0);
  var bad = 0u;
  if (is_row) {
    for (var d = 4u * lane; d < args.Dv; d += 64u) {
      let there = min(args.Dv - d, 4u);
      let x = load_0(row - args.first_of_result_3 + d, there);
      let y = load_1(row - args.first_3 + d, there);
      sum = fma(x.x, y.x, sum);
      bad |= select(0u, 1u, x.bad != 0u) | select(0u, 2u, y.bad != 0u);
    }
  }
  sums_smem[thread] = (sum.x + sum.y) + (sum.z + sum.w);
  bad_smem[thread] = bad;
  workgroupBarrier();
  if (!is_row || lane != 0u) {
    return;
  }
  var delta = 0.0;
  for (var other = 0u; other < 16u; other++) {
    delta += sums_smem[thread + other];
    bad |= bad_smem[thread + other];
  }

  let lse_bits = lse[(b * args.score.heads + h) * args.rows + i - args.first_of_lse];
  var flags = 0u;
  var delta_bits = bitcast<u32>(delta);
  if (bad != 0u || !is_finite(delta_bits)) {
    flags |= BAD_DS;
  }
  if ((bad & 2u) != 0u) {
    flags |= BAD_DOUT;
  }
  if (!is_finite(lse_bits)) {
    flags |= select(BAD_P | BAD_DS, EMPTY, lse_bits == 0xff800000u);
  }
  if ((flags & EMPTY) != 0u) {
    flags = EMPTY;
  } else if (flags != 0u && !sees_any(b, h, i)) {
    // Out is 0 where the row sees no key, and so is delta whatever dout holds. A sink that is NaN still makes lse NaN.
    flags = EMPTY | (flags & BAD_P);
    delta_bits = 0u;
  }
  let at = args.terms + n * TERMS;
  workspace[at] = select(0u, lse_bits, is_finite(lse_bits));
  workspace[at + 1u] = select(0u, delta_bits, is_finite(delta_bits));
  workspace[at + 2u] = flags;
}
