#include "models/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "engine/check.h"
#include "models/atomic_file.h"

namespace clip {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  int64_t size = 0;
  const FileDescriptor file = open_regular_file(path, size);
  if (size == 0) return;  // nothing to map, and mmap refuses it
  const size_t mapped = static_cast<size_t>(size);
  void* const address = ::mmap(nullptr, mapped, PROT_READ, MAP_PRIVATE, file.number(), 0);
  CLIP_CHECK(address != MAP_FAILED, "cannot map ", path, ": ",
             std::generic_category().message(errno));
  bytes_ = {static_cast<const std::byte*>(address), mapped};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void release_pages(std::span<const std::byte> mapped) {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(mapped.data());
  const uintptr_t begin = (first + page - 1) / page * page;
  const uintptr_t end = (first + mapped.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace clip
