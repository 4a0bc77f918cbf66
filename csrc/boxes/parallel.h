// Runs a function for every image of a batch on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace wsolfast::boxes {

// Rethrows the exception of the first failing image, so that an error does not depend on the number of threads.
template <typename Function>
void for_each_image(int64_t count, int threads, Function&& function) {
  std::vector<std::exception_ptr> errors(count);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t image; (image = next.fetch_add(1)) < count;) {
      try {
        function(image);
      } catch (...) {
        errors[image] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < std::min<int64_t>(threads, count); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace wsolfast::boxes
