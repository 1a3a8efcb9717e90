// Joining of parts (lib/parts.wgsl) by threads that have a vector each: four columns of a row. acc of a part is [4, R, vectors], the
// first column of each vector first. It is written for little code: a workgroup runs it once, and waits for the code itself.

// The rows that share a key head: batch, first query head, how many, and vectors of columns of each.
struct Group {
  b: u32,
  h: u32,
  rows: u32,
  vectors: u32,
}

// Behind acc a part has m [R] and l [R].
fn part_words(group: Group) -> u32 {
  return group.rows * (4u * group.vectors + 2u);
}

// Writes what belongs to all columns of a row to the part that begins at word `part`.
fn leave_sums(group: Group, part: u32, r: u32, m: f32, l: f32) {
  let at = part + 4u * group.rows * group.vectors + r;
  atomicStore(&state[at], bitcast<u32>(m) + 1u);
  atomicStore(&state[at + group.rows], bitcast<u32>(l) + 1u);
}

// Puts 0 back there, in `size` parts from word `start` on.
fn clear_sums(group: Group, thread: u32, start: u32, size: u32) {
  for (var n = thread; n < size * 2u * group.rows; n += ${THREADS}u) {
    let p = n / (2u * group.rows);
    atomicStore(&state[start + p * part_words(group) + 4u * group.rows * group.vectors + (n - p * 2u * group.rows)], 0u);
  }
}

// Parts of a set that have been counted.
var<workgroup> counted_smem: u32;

// Words of acc, relative to m; and the row's m and l.
struct Joined {
  acc: vec4u,
  m: f32,
  l: f32,
}

// Words of four columns of acc, of which those whose bits in `bad` are set are NaN.
fn words_of(acc: vec4f, bad: vec4<bool>) -> vec4u {
  let bits = bitcast<vec4u>(acc);
  let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
  return select(vec4u(NAN_WORD), bits + 1u, finite & !bad);
}

// What words stand for, and anything in the place of NaN.
fn floats_of(words: vec4u) -> vec4f {
  return bitcast<vec4f>(words - 1u);
}

// What is relative to m, relative to a larger max.
fn weight4(m: vec4f, top: vec4f) -> vec4f {
  return select(exp2((m - subtrahend(top)) * args.to_exponent), vec4f(), m == vec4f(HIDDEN));
}

// Writes vector n of all rows, of row r = n / vectors.
fn leave(group: Group, part: u32, n: u32, r: u32, joined: Joined) {
  let stride = group.rows * group.vectors;
  //#for e in 4
  atomicStore(&state[part + n + ${e}u * stride], joined.acc[${e}]);
  //#endfor
  if (n == r * group.vectors) {
    leave_sums(group, part, r, joined.m, joined.l);
  }
}

// Writes it to out.
fn finish(group: Group, n: u32, r: u32, joined: Joined) {
  let h = group.h + r / args.rows;
  let i = r % args.rows;
  let column = n - r * group.vectors;
  let head = head_of(group.b, h);
  let nan = joined.acc == vec4u(NAN_WORD);
  let marks = select(vec4u(), vec4u(1u, 2u, 4u, 8u), nan);
  let logit = select(joined.m, 0.0, joined.m == HIDDEN) * args.to_logit;
  let seen = finish_row(head, h, joined.m, logit, joined.l, false);
  //#if LSE
  if (column == 0u) {
    lse[head.index * args.rows + i - args.lse_first] = seen.lse;
  }
  //#endif
  let at = group.b * args.out_batch + h * args.out_head + i * args.out_row - args.out_first;
  store_out(at, column * 4u, select(floats_of(joined.acc), vec4f(), nan), marks.x | marks.y | marks.z | marks.w, seen);
}

// Vector n of the parts of a set, as it was found: acc, m and l.
struct Found {
  //#for x in FAN
  acc${x}: vec4u,
  //#endfor
  m: vec4u,
  l: vec4u,
}

// Vector n, of row r, of `size` parts from word `start` on. Behind the last part it is the last again.
fn look(group: Group, start: u32, size: u32, n: u32, r: u32) -> Found {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var found: Found;
  //#for x in FAN
  {
    let part = start + min(${x}u, size - 1u) * words;
    found.acc${x} = vec4u(
      atomicLoad(&state[part + n]),
      atomicLoad(&state[part + n + stride]),
      atomicLoad(&state[part + n + 2u * stride]),
      atomicLoad(&state[part + n + 3u * stride]),
    );
    found.m[${x}] = atomicLoad(&state[part + 4u * stride + r]);
    found.l[${x}] = atomicLoad(&state[part + 4u * stride + group.rows + r]);
  }
  //#endfor
  return found;
}

fn is_there(found: Found) -> bool {
  var least = min(found.m, found.l);
  //#for x in FAN
  least = min(least, found.acc${x});
  //#endfor
  return all(least != vec4u());
}

// `size` parts as one.
fn join(found: Found, size: u32) -> Joined {
  let m = select(vec4f(HIDDEN), floats_of(found.m), vec4u(0u, 1u, 2u, 3u) < vec4u(size));
  let top = max(max(m.x, m.y), max(m.z, m.w));
  let weight = weight4(m, vec4f(top));
  var acc = vec4f();
  var most = vec4u();
  //#for x in FAN
  most = max(most, found.acc${x});
  acc = fma(vec4f(weight[${x}]), floats_of(found.acc${x}), acc);
  //#endfor
  return Joined(words_of(acc, most == vec4u(NAN_WORD)), top, dot(weight, floats_of(found.l)));
}

// Counts part `split` of a key head, which this workgroup has left, and joins what it completes: sets of FAN parts to one part
// each, and those likewise, until one is left.
fn join_parts(group: Group, thread: u32, split: u32, first_counter: u32, first_word: u32) {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var part = split;
  var parts = args.splits;
  var counter = first_counter;
  var word = first_word;
  loop {
    let which = part / ${FAN}u;
    let sets = (parts + ${FAN - 1}u) / ${FAN}u;
    let size = min(${FAN}u, parts - which * ${FAN}u);
    let start = word + which * ${FAN}u * words;
    storageBarrier();
    // The way to memory and back is the same for a look and for counting. So threads look before they know whether this workgroup
    // is the last, and whether all is there; if it is the last, it mostly is.
    let ahead = min(thread, stride - 1u);
    var found = look(group, start, size, ahead, ahead / group.vectors);
    if (thread == 0u) {
      counted_smem = atomicAdd(&state[counter + which], 1u) + 1u;
    }
    if (workgroupUniformLoad(&counted_smem) != size) {
      return;
    }
    for (var n = thread; n < stride; n += ${THREADS}u) {
      let r = n / group.vectors;
      for (var again = n > thread || !is_there(found); again; again = !is_there(found)) {
        found = look(group, start, size, n, r);
      }
      let joined = join(found, size);
      if (sets == 1u) {
        finish(group, n, r, joined);
      } else {
        leave(group, word + (parts + which) * words, n, r, joined);
      }
      //#for x in FAN
      {
        let at = start + min(${x}u, size - 1u) * words + n;
        //#for e in 4
        atomicStore(&state[at + ${e}u * stride], 0u);
        //#endfor
      }
      //#endfor
    }
    // All have found m and l.
    workgroupBarrier();
    clear_sums(group, thread, start, size);
    if (thread == 0u) {
      atomicStore(&state[counter + which], 0u);
    }
    if (sets == 1u) {
      return;
    }
    counter += sets;
    word += parts * words;
    part = which;
    parts = sets;
  }
}
