// What the bindings of the box ops start.
#pragma once

#include <cstdint>
#include <functional>

#include "boxes/map_rule.h"
#include "boxes/rule.h"
#include "cuda/target.h"

namespace wsolfast::cuda {

// Maps [N, h, w] and how boxes are cut from them; neither maps nor thresholds [T] are empty.
template <typename Pixel>
struct BoxMaps {
  const Pixel* maps;
  int64_t images;
  const double* thresholds;
  int64_t threshold_count;
  boxes::MapRule map_rule;
  boxes::Rule rule;
};

// Boxes [G, 4], those of image n from begin[n] to begin[n + 1], and the overlaps [I] that they are hit with.
struct Truths {
  const double* boxes;
  const int64_t* begin;
  int64_t count;
  const double* levels;
  int64_t level_count;
};

// [N, T]
template <typename Pixel>
void choose_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, boxes::Box* boxes);

// [N, T, I]
template <typename Pixel>
void find_hits(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, const Truths& truths,
               bool* hits);

// Fills offsets [N * T + 1], waits for the last of them, and writes as many boxes to where `room_for` says.
template <typename Pixel>
void list_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, int64_t* offsets,
                const std::function<boxes::Box*(int64_t boxes)>& room_for);

}  // namespace wsolfast::cuda
