// Op adam: chunks of members' slices over threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../ops.h"
#include "../step/run.h"
#include "../threads.h"

namespace atras {
namespace {

constexpr std::int64_t kChunk = 16384;           // parameters of a work item
constexpr std::int64_t kSerialElements = 32768;  // below this, waking threads costs more than it saves

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct Chunk {
  std::int64_t member, first, count;
};

std::vector<Chunk> chunks_of(const std::int64_t* offsets, std::int64_t members) {
  std::vector<Chunk> chunks;
  for (std::int64_t m = 0; m < members; ++m)
    for (std::int64_t first = offsets[m]; first < offsets[m + 1]; first += kChunk)
      chunks.push_back({m, first, std::min(kChunk, offsets[m + 1] - first)});
  return chunks;
}

// Both bias corrections are moved into the learning rate and the floor of the denominator.
step::Update update_of(std::int64_t& steps, double rate) {
  const double t = double(++steps), root = std::sqrt(1.0 - std::pow(0.999, t));
  return {true, float(rate * root / (1.0 - std::pow(0.9, t))), float(1e-8 * root), 0.0f};
}

}  // namespace

void adam(Address parameters, Address gradients, Address first, Address second, Address offsets, Address steps,
          Address rates, std::int64_t members, int threads, const std::string& instructions) {
  const step::Kernels& k = step::best_kernels(instructions.c_str());
  std::vector<step::Update> updates;
  for (std::int64_t m = 0; m < members; ++m)
    updates.push_back(update_of(at<std::int64_t>(steps)[m], at<const double>(rates)[m]));
  const std::int64_t* begins = at<const std::int64_t>(offsets);
  const std::vector<Chunk> chunks = chunks_of(begins, members);
  if (begins[members] - begins[0] < kSerialElements) threads = 1;
  Pool::instance().run(threads, std::int64_t(chunks.size()), [&](std::int64_t item) {
    const Chunk& c = chunks[item];
    k.single.adam(updates[c.member], at<float>(parameters) + c.first, at<const float>(gradients) + c.first,
                  at<float>(first) + c.first, at<float>(second) + c.first, c.count);
  });
}

}  // namespace atras
