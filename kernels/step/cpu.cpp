#include "engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "../native/threads.h"
#include "chain_scratch.h"

namespace atras::step {
namespace {

// The strength of a member's copies.
float epsilon_of(const Images& images, int member) {
  return images.signs ? float(images.epsilons[member]) : 0.0f;
}

constexpr std::int64_t kLeastRows = 32;  // of a chunk, which packs its member's weights anew
constexpr double kSerialWork = 4e6;  // multiply-adds of a step below which waking threads costs more than it saves

template <class F>
void each(int threads, int items, const F& f) {
  Pool::instance().run(threads, items, [&](std::int64_t item) { f(int(item)); });
}

void copy_logits(const Run& run, float* to) {
  const int classes = run.spec->classes, stride = row_stride(classes);
  for (std::ptrdiff_t b = 0; b < run.batch.rows; ++b)
    std::memcpy(to + b * classes, run.logits + b * stride, classes * sizeof(float));
}

// Few chunks of tiles or images are divided further, by outputs, so that each thread has its share.
int parts_of(int threads, int chunks) { return threads == 1 ? 1 : elements_of(4 * threads, chunks); }

// The gradient of the logits as the caller has it, in place of the loss's.
void take_cotangents(const Run& run) {
  const int classes = run.spec->classes, stride = row_stride(classes);
  std::memset(run.gradient, 0, std::size_t(run.rows_padded()) * stride * sizeof(float));
  for (std::ptrdiff_t b = 0; b < run.batch.rows; ++b)
    std::memcpy(run.gradient + b * stride, run.cotangents + b * classes, classes * sizeof(float));
}

}  // namespace

// Scratch for one member's step, and for the threads that work on it.
struct Step::Slot {
  Buffer memory;
  Run run{};
  std::vector<float*> packed, slopes, hidden, hidden_slopes;
  std::vector<void*> results;
  std::vector<std::uint8_t*> argmax;
  ChainBuffers chain;
  std::vector<Workspace> workspaces;
  std::unique_ptr<std::atomic<bool>[]> busy;
  std::atomic<bool> taken{false};

  Slot(const Spec& spec, const Stem& stem, const std::vector<Member>& members, int threads);
  void lay_out(Arena& arena, const Spec& spec, const Stem& stem, const std::vector<Member>& members, int threads);

  // Calls f with the scratch of a thread that nobody else uses meanwhile.
  template <class F>
  void with_workspace(const F& f) {
    for (std::size_t i = 0;; i = (i + 1) % workspaces.size()) {
      if (busy[i].exchange(true, std::memory_order_acquire)) continue;
      f(workspaces[i]);
      busy[i].store(false, std::memory_order_release);
      return;
    }
  }
};

// each(), with the scratch of the thread at work.
template <class F>
void Step::spread(int threads, int items, Slot& slot, const F& f) {
  each(threads, items, [&](int item) { slot.with_workspace([&](const Workspace& w) { f(item, w); }); });
}

Step::Slot::Slot(const Spec& spec, const Stem& stem, const std::vector<Member>& members, int threads) {
  Arena count;
  lay_out(count, spec, stem, members, threads);
  memory = Buffer(count.used);
  Arena arena{memory.data(), 0};
  lay_out(arena, spec, stem, members, threads);
  busy = std::make_unique<std::atomic<bool>[]>(threads);
  for (int i = 0; i < threads; ++i) busy[i] = false;
  run.packed = packed.data();
  run.slopes = slopes.data();
  run.hidden = hidden.data();
  run.hidden_slopes = hidden_slopes.data();
  run.results = results.data();
  run.argmax = argmax.data();
  run.chain = chain.pointers();
}

void Step::Slot::lay_out(Arena& a, const Spec& spec, const Stem& stem, const std::vector<Member>& members,
                         int threads) {
  const std::size_t rows = round_up(spec.batch, kLane), panel_rows = round_up(spec.batch, kPanel);
  std::size_t depth = 0, in = 0, out = 0, features = 0, largest = 0;
  for (const Member& m : members) {
    largest = std::max(largest, m.size);
    depth = std::max(depth, m.dense.size() - 1);
    features = std::max<std::size_t>(features, m.dense[0].stride);
    for (const Dense& d : m.dense) {
      in = std::max<std::size_t>(in, d.in_padded());
      out = std::max<std::size_t>(out, row_stride(d.out));
    }
  }
  run.group = std::max(16, round_up(spec.batch, 8 * 16) / 8);
  packed.clear(), slopes.clear(), results.clear(), argmax.clear(), hidden.clear(), hidden_slopes.clear();
  std::size_t widest = 0, g = 0, list = 0, raster = 0, patches = 0;
  for (const Conv& c : stem.convs) {
    const bool last = &c == &stem.convs.back();
    const std::size_t stride = last ? row_stride(stem.features) : c.store_size();
    packed.push_back(a.take<float>(c.weight_size()));
    results.push_back(last ? nullptr : a.take<float>(rows * stride));
    argmax.push_back(c.pool ? a.take<std::uint8_t>(rows * c.result_size()) : nullptr);
    slopes.push_back(spec.activation == Activation::relu ? nullptr : a.take<float>(rows * stride));
    widest = std::max({widest, c.in_size(), c.store_size(), stem.image_size});
    g = std::max(g, c.result_size());
    list = 32 * 64 * 8;
    if (patches == 0) patches = 4 * kBlock * std::size_t(round_up(16 * c.in_channels, kLane));
    raster = std::max(raster, (std::size_t(c.in_h) * c.in_w + 32) * kBlock);
  }
  if (!stem.convs.empty()) run.images = a.take<float>(rows * stem.image_size);
  chain.lay_out(a, spec, members, rows);
  run.features = a.take<float>(rows * features);
  run.dfeatures = a.take<float>(rows * features);
  for (std::size_t i = 0; i < depth; ++i) {
    std::size_t width = 0;
    for (const Member& m : members)
      if (i + 1 < m.dense.size()) width = std::max<std::size_t>(width, row_stride(m.dense[i].out));
    hidden.push_back(a.take<float>(rows * width));
    hidden_slopes.push_back(a.take<float>(rows * width));
  }
  run.panels = a.take<float>(panel_rows * (in + 2 * kLane));
  run.transposed = a.take<float>(panel_rows * out);
  run.gradient = a.take<float>(rows * out);
  run.next_gradient = a.take<float>(rows * out);
  run.logits = a.take<float>(rows * row_stride(spec.classes));
  run.kept = spec.clip > 0.0 ? a.take<float>(largest) : nullptr;
  run.partial = a.take<float>((rows + run.group - 1) / run.group * std::max(stem.size, chain.largest_sums));
  // Rows of a chunk or a panel in pairs along k, or half the batch in rows of a chunk.
  const std::size_t left = std::max(kRowChunk * (std::max(in, out) + 64) / 2, (rows / 2 + 1) * kRowChunk);
  workspaces.assign(threads, Workspace{});
  for (Workspace& w : workspaces) {
    w.dx[0] = a.take<float>(widest);
    w.dx[1] = a.take<float>(widest);
    w.g = a.take<float>(g);
    w.raster = a.take<float>(raster);
    w.expanded = a.take<float>(widest + kLane);
    w.lists = a.take<char>(list);
    w.patches = a.take<float>(patches);
    w.left = a.take<float>(left);
    w.right = a.take<float>(std::max(rows, out) / 2 * kPanel + kPanel);
    w.gradients = a.take<float>(kRowChunk * kPanel);
    w.bytes = a.take<std::uint8_t>(std::max({g, out, chain.largest_result}) + 512);
    w.chain = lay_out_chain_workspace(a, spec, members);
  }
}

Step::Step(const Spec& spec, const std::vector<Layers>& layers, int threads, Instructions instructions)
    : spec_(spec), stem_(make_stem(spec)), threads_(threads), kernels_(&kernels_of(instructions)) {
  std::size_t offset = 0;
  for (const Layers& own : layers) {
    members_.push_back(make_member(spec_, stem_, own, offset));
    offset += members_.back().size;
  }
  parameters_ = Buffer(offset * sizeof(float));
  first_ = Buffer(offset * sizeof(float));
  second_ = Buffer(spec.adam ? offset * sizeof(float) : 0);
  average_ = Buffer(spec.average >= 0.0 ? offset * sizeof(float) : 0);
  steps_.assign(members_.size(), 0);
  // A member alone may be worked on by all threads, so the first slot has scratch for each of them.
  for (int i = 0; i < threads; ++i)
    slots_.push_back(std::make_unique<Slot>(spec_, stem_, members_, i == 0 ? threads : 1));
}

Step::~Step() = default;

std::size_t Step::bytes() const {
  std::size_t total = parameters_.bytes() + first_.bytes() + second_.bytes() + average_.bytes();
  for (const auto& slot : slots_) total += slot->memory.bytes();
  return total;
}

void Step::poison() {
  for (const auto& slot : slots_) std::memset(slot->memory.data(), 0xff, slot->memory.bytes());
}

Step::Slot* Step::take() {
  for (std::size_t i = slots_.size();; i = i == 1 ? slots_.size() : i - 1)
    if (!slots_[i - 1]->taken.exchange(true, std::memory_order_acquire)) return slots_[i - 1].get();
}

void Step::give(Slot* slot) { slot->taken.store(false, std::memory_order_release); }

float* Step::slice(const Buffer& buffer, int member) const {
  return buffer.data() ? reinterpret_cast<float*>(buffer.data()) + members_[member].offset : nullptr;
}

Run Step::start(Slot& slot, int member) const {
  Run run = slot.run;
  run.spec = &spec_;
  run.stem = &stem_;
  run.member = &members_[member];
  run.parameters = slice(parameters_, member);
  run.first_moment = slice(first_, member);
  run.second_moment = slice(second_, member);
  run.average = slice(average_, member);
  return run;
}

void Step::forward(Run& run, Slot& slot, int threads) {
  const Kernels& k = *kernels_;
  if (run.member->chain.empty()) {
    each(threads, int(stem_.convs.size()), [&](int conv) { k.pack(run, conv); });
    spread(threads, run.groups(), slot, [&](int group, const Workspace& w) { k.stem_forward(run, group, w); });
  } else {
    chain_forward(run, slot, threads);
  }
  const int panels = panels_of(run.rows_padded());
  for (int layer = 0; layer < int(run.member->dense.size()); ++layer) {
    const Dense& d = run.member->dense[layer];
    spread(threads, panels, slot, [&](int panel, const Workspace& w) { k.pack_panel(run, layer, panel, w); });
    spread(threads, panels * chunks_of(d.out), slot,
           [&](int item, const Workspace& w) { k.dense_forward(run, layer, item, w); });
    spread(threads, run.rows_padded() / kLane, slot,
           [&](int item, const Workspace& w) { k.dense_finish(run, layer, item, w); });
  }
}

void Step::head_backward(Run& run, Slot& slot, int threads) {
  const Kernels& k = *kernels_;
  for (int layer = int(run.member->dense.size()) - 1; layer >= 0; --layer) {
    const Dense& d = run.member->dense[layer];
    const bool pass_on = layer > 0 || run.member->conv_size > 0 || !run.training;
    const int panels = panels_of(d.in_padded());
    const auto gradient = [&](int item, const Workspace& w) { k.dense_input_gradient(run, layer, item, w); };
    const auto update = [&](int item, const Workspace& w) { k.dense_update(run, layer, item, w); };
    const int gradients = pass_on ? panels * chunks_of(run.rows_padded()) : 0;
    const int updates = run.training ? panels * chunks_of(d.out) : 0;
    if (threads > 1) {
      spread(threads, gradients, slot, gradient);
      spread(threads, updates, slot, update);
    } else {  // a panel's weights are updated while they are still in cache, for no other panel's gradient reads them
      slot.with_workspace([&](const Workspace& w) {
        for (int panel = 0; panel < panels; ++panel) {
          for (int item = panel; item < gradients; item += panels) gradient(item, w);
          for (int item = panel; item < updates; item += panels) update(item, w);
        }
      });
    }
    std::swap(run.gradient, run.next_gradient);
  }
}

void Step::convolutions_backward(Run& run, Slot& slot, int threads) {
  const Kernels& k = *kernels_;
  for (int conv = int(run.member->chain.size()) - 1; conv >= 0; --conv) chain_backward(run, slot, threads, conv);
  if (!run.member->chain.empty()) return;
  spread(threads, run.groups(), slot, [&](int group, const Workspace& w) { k.stem_backward(run, group, w); });
  const int updates = run.training ? elements_of(int(run.member->conv_size), kUpdateChunk) : 0;
  each(threads, updates, [&](int item) { k.stem_update(run, item); });
}

void Step::chain_forward(Run& run, Slot& slot, int threads) {
  const Kernels& k = *kernels_;
  const int convolutions = int(run.member->chain.size());
  for (int conv = 0; conv <= convolutions; ++conv) {
    spread(threads, run.groups(), slot, [&](int group, const Workspace& w) { k.chain_enter(run, conv, group, w); });
    if (conv == convolutions) return;
    const ChainItems items = run.items(conv);
    each(threads, items.prepare_forward(), [&](int item) { k.chain_prepare(run, conv, item, false); });
    const int chunks = items.patches() ? run.groups() : items.tile_chunks(), parts = parts_of(threads, chunks);
    spread(threads, items.patches() ? chunks : chunks * parts, slot,
           [&](int item, const Workspace& w) { k.chain_forward(run, conv, item, parts, w); });
  }
}

void Step::chain_backward(Run& run, Slot& slot, int threads, int conv) {
  const Kernels& k = *kernels_;
  const ChainItems items = run.items(conv);
  if (conv > 0) each(threads, items.prepare_backward(), [&](int item) { k.chain_prepare(run, conv, item, true); });
  if (items.patches()) {
    spread(threads, run.groups(), slot, [&](int group, const Workspace& w) { k.chain_backward(run, conv, group, w); });
  } else {
    each(threads, run.groups(), [&](int group) { k.chain_gradient(run, conv, group); });
    const int chunks = items.image_chunks(), parts = parts_of(threads, chunks);
    spread(threads, chunks * parts, slot,
           [&](int item, const Workspace& w) { k.chain_input_gradient(run, conv, item, parts, w); });
    each(threads, run.training ? items.tile_chunks() : 0, [&](int item) { k.chain_keep(run, conv, item); });
  }
  spread(threads, run.training ? items.update() : 0, slot,
         [&](int item, const Workspace& w) { k.chain_update(run, conv, item, w); });
}

void Step::train_step(Run& run, Slot& slot, int threads) {
  forward(run, slot, threads);
  kernels_->cross_entropy(run, true);
  if (run.cotangents) take_cotangents(run);
  head_backward(run, slot, threads);
  if (run.member->conv_size > 0) convolutions_backward(run, slot, threads);
  if (run.kept) update_kept(run, threads);
}

// The optimizer's step out of gradients that were kept, whose norm is known only now; as clip_grad_norm_ of torch.
void Step::update_kept(Run& run, int threads) {
  const int items = elements_of(int(run.member->size), kUpdateChunk);
  std::vector<double> squares(items);
  each(threads, items, [&](int item) { squares[item] = kernels_->kept_squares(run, item); });
  const double norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  const double scale = spec_.clip / (norm + 1e-6);
  run.update.scale = scale > 1.0 ? 1.0f : float(scale);  // NaN stays
  each(threads, items, [&](int item) { kernels_->kept_update(run, item); });
}

Run Step::start_training(Slot& slot, int member, const TrainCall& call) const {
  Run run = start(slot, member);
  const std::size_t image = std::size_t(spec_.channels) * spec_.height * spec_.width;
  const Images& in = call.images;
  run.training = true;
  run.bf16 = spec_.bf16;
  run.key = call.keys[member];
  run.cotangents = call.cotangents ? call.cotangents + member * call.rows * spec_.classes : nullptr;
  run.batch = {in.images, in.bytes, in.count, in.signs ? in.signs + member * in.count * image : nullptr,
               epsilon_of(in, member), nullptr, 0, call.labels, 0};
  return run;
}

void Step::set_batch(Run& run, int member, const TrainCall& call, std::int64_t step) const {
  run.batch.index = call.order + call.order_of[member] * call.rows + step * call.batch;
  run.batch.rows = int(std::min<std::int64_t>(call.batch, call.rows - step * call.batch));
  run.step = call.first_step + std::uint32_t(step);
}

Update Step::update_of(int member, double rate, double decay) const {
  const double t = double(steps_[member]), root = std::sqrt(1.0 - std::pow(0.999, t));
  Update update{};
  update.adam = spec_.adam;
  update.momentum = spec_.momentum;
  update.learning_rate = float(spec_.adam ? rate * root / (1.0 - std::pow(0.9, t)) : rate);
  update.floor = float(1e-8 * root);
  update.plain = decay == 0.0 && spec_.clip == 0.0 && spec_.average < 0.0;
  update.coupled = spec_.decoupled ? 0.0f : float(decay);
  update.shrink = spec_.decoupled ? float(1.0 - rate * decay) : 1.0f;
  update.average = t == 1.0 ? 1.0f : float(1.0 - spec_.average);
  return update;
}

void Step::train_member(int member, const TrainCall& call, Slot& slot, int threads) {
  Run run = start_training(slot, member, call);
  const std::int64_t steps = (call.rows + call.batch - 1) / call.batch;
  const double decay = call.weight_decays ? call.weight_decays[member] : 0.0;
  // Between the rows of weights lies what no step writes and every step sums.
  if (run.kept) std::memset(run.kept, 0, run.member->size * sizeof(float));
  for (std::int64_t s = 0; s < steps; ++s) {
    set_batch(run, member, call, s);
    ++steps_[member];
    run.update = update_of(member, call.learning_rates[member * steps + s], decay);
    train_step(run, slot, threads);
    call.losses[member * steps + s] = run.loss;
    call.correct[member * steps + s] = run.correct;
  }
}

// Calls work(member, slot, threads) for every member, for steps of at most so many rows.
template <class Work>
void Step::over_members(std::int64_t rows, const Work& work) {
  std::vector<int> order(members_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return members_[a].cost > members_[b].cost; });
  const auto one = [&](int member, int threads) {
    Slot* slot = threads > 1 ? slots_[0].get() : take();
    work(member, *slot, threads);
    if (threads == 1) give(slot);
  };
  // As many members as divide evenly go one to a thread, without any join between steps; the rest share all threads.
  const int alone = members() / threads_ * threads_;
  each(threads_, alone, [&](int i) { one(order[i], 1); });
  for (int i = alone; i < members(); ++i) {
    const double cost = members_[order[i]].cost * std::min<double>(spec_.batch, rows);
    one(order[i], cost < kSerialWork ? 1 : threads_);
  }
}

void Step::train(const TrainCall& call) {
  over_members(std::min<std::int64_t>(call.batch, call.rows),
               [&](int member, Slot& slot, int threads) { train_member(member, call, slot, threads); });
}

void Step::training_logits(const TrainCall& call, float* values) {
  if (call.rows == 0) return;
  over_members(call.rows, [&](int member, Slot& slot, int threads) {
    Run run = start_training(slot, member, call);
    set_batch(run, member, call, 0);
    forward(run, slot, threads);
    copy_logits(run, values + member * call.rows * spec_.classes);
  });
}

std::vector<Step::Chunk> Step::chunks_of_members(const Images& images) const {
  std::vector<Chunk> chunks;
  std::int64_t row = 0, image = 0;
  // Few rows are divided finer, so that each thread has its share of them.
  const std::int64_t rows = images.counts ? images.count : members() * images.count;
  const std::int64_t share = threads_ > 1 ? round_up(int(rows / (2 * threads_)), kLane) : spec_.batch;
  const std::int64_t size = std::min<std::int64_t>(spec_.batch, std::max(kLeastRows, share));
  for (int member = 0; member < members(); ++member) {
    const std::int64_t count = images.counts ? images.counts[member] : images.count;
    for (std::int64_t at = 0; at < count; at += size)
      chunks.push_back({member, image + at, at, row + at, int(std::min(size, count - at))});
    row += count;
    if (images.own || images.counts) image += count;
  }
  return chunks;
}

template <class Work>
void Step::over_chunks(const Images& images, bool raw, const Work& work) {
  const std::size_t image = std::size_t(spec_.channels) * spec_.height * spec_.width;
  const std::vector<Chunk> chunks = chunks_of_members(images);
  double cost = 0.0;
  for (const Chunk& chunk : chunks) cost += members_[chunk.member].cost * chunk.rows;
  each(cost < kSerialWork ? 1 : threads_, int(chunks.size()), [&](int item) {
    const Chunk& chunk = chunks[item];
    Slot* slot = take();
    Run run = start(*slot, chunk.member);
    run.training = run.bf16 = false;
    if (run.average && !raw) run.parameters = run.average;
    const std::int64_t all = images.own ? members() * images.count : images.count;
    const float epsilon = epsilon_of(images, chunk.member);
    run.batch = {images.images, images.bytes, all, nullptr, epsilon, nullptr, chunk.first, nullptr, chunk.rows};
    if (images.signs) {  // an index past the end means the adversarial copy
      run.batch.signs = images.signs + chunk.member * images.count * image;
      run.batch.first += images.count;
    }
    forward(run, *slot, 1);
    work(run, *slot, chunk);
    give(slot);
  });
}

void Step::logits(const Images& images, bool raw, float* values) {
  over_chunks(images, raw, [&](Run& run, Slot&, const Chunk& chunk) {
    copy_logits(run, values + chunk.row * spec_.classes);
  });
}

void Step::attack(const AttackCall& call) {
  const std::size_t image = std::size_t(spec_.channels) * spec_.height * spec_.width;
  for (int m = 0; m < members(); ++m) call.zero_gradients[m] = call.nan_gradients[m] = 0;
  over_chunks(call.images, call.raw, [&](Run& run, Slot& slot, const Chunk& chunk) {
    const std::size_t at = chunk.row * image, at_logits = std::size_t(chunk.row) * spec_.classes;
    copy_logits(run, call.logits + at_logits);
    run.cotangents = call.cotangents ? call.cotangents + at_logits : nullptr;
    const std::int64_t at_label = call.own_labels ? chunk.row : chunk.own;
    run.attack_labels = call.labels ? call.labels + at_label : nullptr;
    run.attack_targets = call.targets ? call.targets + at_label : nullptr;
    run.objective = call.objective;
    run.image_gradient = call.gradients ? call.gradients + at : nullptr;
    run.image_signs = call.signs ? call.signs + at : nullptr;
    run.direction = call.direction;
    run.zero_gradients = run.nan_gradients = 0;
    if (run.cotangents) take_cotangents(run);
    else kernels_->cross_entropy(run, false);
    head_backward(run, slot, 1);
    convolutions_backward(run, slot, 1);
    __atomic_fetch_add(call.zero_gradients + chunk.member, run.zero_gradients, __ATOMIC_RELAXED);
    __atomic_fetch_add(call.nan_gradients + chunk.member, run.nan_gradients, __ATOMIC_RELAXED);
  });
}

}  // namespace atras::step
