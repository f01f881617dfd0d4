// A pool of threads of our own: a second OpenMP runtime beside torch's would spin.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace atras {

class Pool {
 public:
  // The process's pool. A forked child has none of its parent's threads, so it gets a new pool; the old one is left
  // alone, for its mutex may be held by a thread that no longer exists.
  static Pool& instance() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load();
    while (pool == nullptr || pool->owner_ != getpid()) {
      Pool* fresh = new Pool;
      if (current.compare_exchange_strong(pool, fresh)) return *fresh;
      delete fresh;
    }
    return *pool;
  }

  // Calls work(item) once for every item in [0, items) on up to `threads` threads, the caller's among them, and returns
  // when all are done. Items are handed out in order. work must not throw. A call while another is under way (from
  // another thread, or from inside work) runs on its own thread alone.
  template <class Work>
  void run(int threads, std::int64_t items, const Work& work) {
    std::unique_lock<std::mutex> busy(busy_, std::defer_lock);
    if (threads < 2 || items < 2 || !busy.try_lock()) {
      for (std::int64_t item = 0; item < items; ++item) work(item);
      return;
    }
    const int helpers = static_cast<int>(std::min<std::int64_t>(threads, items)) - 1;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; started_ < helpers; ++started_) std::thread([this, index = started_] { serve(index); }).detach();
      call_ = [](const void* given, std::int64_t item) { (*static_cast<const Work*>(given))(item); };
      work_ = &work;
      items_ = items;
      next_.store(0, std::memory_order_relaxed);
      helpers_ = running_ = helpers;
      ++round_;
    }
    wake_.notify_all();
    take_items();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void serve(int index) {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (index >= helpers_) continue;
      lock.unlock();
      take_items();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  void take_items() {
    for (std::int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items_;) call_(work_, item);
  }

  const pid_t owner_ = getpid();
  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  int started_ = 0, helpers_ = 0, running_ = 0;
  std::uint64_t round_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::int64_t items_ = 0;
  const void* work_ = nullptr;
  void (*call_)(const void*, std::int64_t) = nullptr;
};

}  // namespace atras
