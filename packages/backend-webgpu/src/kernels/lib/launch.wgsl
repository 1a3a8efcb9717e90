// Which workgroup of the whole grid this one is: the launcher cuts large grids into several dispatches.
// Every uniform struct begins with `launch: Launch`.

struct Launch {
  // Workgroups of the grid that came in earlier dispatches.
  first: u32,
  // Workgroups of the grid up to the end of this dispatch; those beyond it have nothing to do.
  end: u32,
  // 1 if this dispatch is the whole grid, in the three dimensions that the pass gives.
  whole: u32,
  // Structs in uniforms are counted in 16 bytes.
  unused: u32,
}

fn workgroup_index(launch: Launch, id: vec3u, count: vec3u) -> u32 {
  return launch.first + id.y * count.x + id.x;
}

const NOWHERE: u32 = 0xffffffffu;

// The same in three dimensions, `size` of which are the first two; NOWHERE in z for those beyond the end. Divisions are slow, and are left
// out where they can be.
fn workgroup_place(launch: Launch, id: vec3u, count: vec3u, size: vec2u) -> vec3u {
  if (launch.whole != 0u) {
    return id;
  }
  let index = workgroup_index(launch, id, count);
  return vec3u(index % size.x, index / size.x % size.y, select(index / size.x / size.y, NOWHERE, index >= launch.end));
}
