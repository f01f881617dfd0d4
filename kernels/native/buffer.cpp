#include "buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace atras {
namespace {

constexpr std::size_t kPage = 2 << 20;

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_((bytes + kPage - 1) / kPage * kPage) {
  if (bytes_ == 0) return;
  void* at = mmap(nullptr, bytes_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  char* first = static_cast<char*>(at);
  char* aligned = first + (kPage - reinterpret_cast<std::uintptr_t>(first) % kPage) % kPage;
  if (aligned > first) munmap(first, aligned - first);
  if (aligned - first < std::ptrdiff_t(kPage)) munmap(aligned + bytes_, kPage - (aligned - first));
#ifdef MADV_HUGEPAGE
  madvise(aligned, bytes_, MADV_HUGEPAGE);
#endif
  data_ = aligned;
}

Buffer::~Buffer() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace atras
