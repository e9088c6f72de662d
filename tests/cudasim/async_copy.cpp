// cp.async as late as it can be: the bytes arrive in the wait of the thread that started the copy,
// and the target is poison until then.
#include <cstring>

#include "engine/check.h"
#include "tests/cudasim/block.h"
#include "tests/cudasim/cuda/ptx.cuh"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/memory.h"
#include "tests/cudasim/sanitizer.h"

namespace cudasim {
namespace {

constexpr int kCopyBytes = 16;
constexpr int kPoison = 0xFF;

}  // namespace

void cp_async_16(void* shared, const void* global, Site site) {
  Thread& me = running_thread("cp.async", site);
  const auto refuse = [&](const char* side, const void* address, const char* reason) {
    fault(clip::concat("cp.async of ", describe(site), ": ", side, " ", address, " ", reason));
  };
  const auto misaligned = [](const void* address) {
    return reinterpret_cast<uintptr_t>(address) % kCopyBytes != 0;
  };
  if (misaligned(shared)) refuse("target", shared, "is not 16-byte aligned");
  if (misaligned(global)) refuse("source", global, "is not 16-byte aligned");
  if (!is_shared(shared, kCopyBytes))
    refuse("target", shared, "is not inside the block's shared memory");
  if (!is_device_memory(global, kCopyBytes))
    refuse("source", global, "is not inside an allocation of the device");
  note_write(shared, kCopyBytes);
  std::memset(shared, kPoison, kCopyBytes);
  const WithoutHistory own_memory;
  me.copies.push_back({shared, global, me.copy_groups, site});
}

void cp_async_commit() { ++running_thread("cp.async.commit_group", {}).copy_groups; }

void cp_async_wait(int pending) {
  Thread& me = running_thread("cp.async.wait_group", {});
  const int arrived = me.copy_groups - pending;  // groups before this one
  size_t done = 0;
  for (; done < me.copies.size() && me.copies[done].group < arrived; ++done) {
    const AsyncCopy& copy = me.copies[done];
    note_read(copy.global, kCopyBytes);
    note_write(copy.shared, kCopyBytes);
    std::memcpy(copy.shared, copy.global, kCopyBytes);
  }
  const WithoutHistory own_memory;
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace cudasim
