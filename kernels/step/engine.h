// A population of networks: parameters in one flat buffer, training steps, evaluation and attack gradients.
#pragma once

#include <memory>
#include <vector>

#include "../native/buffer.h"
#include "run.h"

namespace atras::step {

struct Images {
  const void* images;
  bool bytes;
  std::int64_t count;
  const std::int8_t* signs;  // [members][count][C][H][W] or null
  const double* epsilons;    // [members], or null without signs
  bool own;  // evaluation only: [members][count][C][H][W], a set for each member, instead of one for all
  const std::int64_t* counts;  // evaluation only: how many of the `count` images, in order, are each member's; or null
};

struct TrainCall {
  Images images;
  const std::int64_t* labels;       // [count]
  const std::int64_t* order;        // [orders][rows]
  const std::int32_t* order_of;     // [members], which order each member follows
  std::int64_t rows;                // images of the call; steps = rows / batch, rounded up
  const std::uint64_t* keys;        // [members] of the dropout
  std::uint32_t first_step;         // step word of the dropout counter
  int batch;                        // images of a step
  const double* learning_rates;     // [members][steps]
  const double* weight_decays;      // [members] or null for none
  double* losses;                   // [members][steps]
  std::int64_t* correct;            // [members][steps]
  const float* cotangents;          // of a single step [members][rows][classes], or null for those of the loss
};

struct AttackCall {
  Images images;
  const std::int64_t* labels;       // null for the predicted ones
  bool own_labels;                  // one for each row of the results, else [count] for all members
  Objective objective;
  const std::int64_t* targets;      // of the objective, like the labels, or null
  const float* cotangents;          // [rows][classes] in place of the labels', or null
  float* logits;                    // [rows][classes]; rows = members * count, or with counts their sum
  float* gradients;                 // [rows][C][H][W] or null
  std::int8_t* signs;               // the same, or null
  int direction;
  bool raw;                         // of the weights even where there is an average of them
  std::int64_t* zero_gradients;     // [members]
  std::int64_t* nan_gradients;      // [members]
};

class Step {
 public:
  Step(const Spec& spec, const std::vector<Layers>& layers, int threads, Instructions instructions);
  ~Step();

  const Kernels& kernels() const { return *kernels_; }
  int members() const { return int(members_.size()); }
  const Member& member(int i) const { return members_[i]; }
  std::size_t bytes() const;                   // parameters, moments, averages and scratch
  // Copies one array in torch's layout; `array` counts weight, bias of each layer from the first. moment: 0 parameter,
  // 1 and with Adam 2 the optimizer's moments, then the average.
  void copy_array(int member, int array, int moment, float* values, bool in);
  std::int64_t& steps(int member) { return steps_[member]; }
  void reset_optimizer();
  void poison();                               // fills all scratch with NaN
  void train(const TrainCall& call);
  void training_logits(const TrainCall& call, float* values);  // [members][rows][classes] of a single step to be made
  // [members][count][classes], or with counts [count][classes]; raw as in AttackCall.
  void logits(const Images& images, bool raw, float* values);
  void attack(const AttackCall& call);

 private:
  struct Slot;
  // Images of one member that are evaluated at once: `rows` of them from number `first` of all images, which is number
  // `own` of the member's; they are the rows from `row` on of the results.
  struct Chunk {
    int member;
    std::int64_t first, own, row;
    int rows;
  };
  std::vector<Chunk> chunks_of_members(const Images& images) const;
  Slot* take();
  void give(Slot* slot);
  float* slice(const Buffer& buffer, int member) const;  // a member's own, or null
  Run start(Slot& slot, int member) const;
  Run start_training(Slot& slot, int member, const TrainCall& call) const;
  void set_batch(Run& run, int member, const TrainCall& call, std::int64_t step) const;
  void train_member(int member, const TrainCall& call, Slot& slot, int threads);
  Update update_of(int member, double rate, double decay) const;
  void train_step(Run& run, Slot& slot, int threads);
  void update_kept(Run& run, int threads);
  void forward(Run& run, Slot& slot, int threads);
  void head_backward(Run& run, Slot& slot, int threads);
  void chain_forward(Run& run, Slot& slot, int threads);
  void convolutions_backward(Run& run, Slot& slot, int threads);
  void chain_backward(Run& run, Slot& slot, int threads, int conv);
  template <class F>
  void spread(int threads, int items, Slot& slot, const F& f);
  template <class Work>
  void over_members(std::int64_t rows, const Work& work);
  template <class Work>
  void over_chunks(const Images& images, bool raw, const Work& work);

  Spec spec_;
  Stem stem_;
  std::vector<Member> members_;
  int threads_;
  const Kernels* kernels_;
  Buffer parameters_, first_, second_, average_;
  std::vector<std::int64_t> steps_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace atras::step
