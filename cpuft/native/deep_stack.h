// Runs what calls itself deeper than a thread's usual stack allows.
#pragma once

#include <cstddef>
#include <functional>

namespace cpuft {

// Calls body on a thread with `bytes` of stack, waits for it, and throws what it throws. What the stack does not use takes no
// memory. Throws std::bad_alloc where the machine gives no such thread.
void with_deep_stack(size_t bytes, const std::function<void()>& body);

}  // namespace cpuft
