// InputError: the caller's data is at fault. Thrown anywhere in the engine, turned into a status code by api.cpp.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace cpuft {

class InputError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Throws an InputError with a printf-formatted sentence.
[[noreturn, gnu::format(printf, 1, 2)]] inline void refuse(const char* format, ...) {
    char sentence[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    throw InputError(sentence);
}

// A text from a file, fit for a sentence: short and on one line.
inline std::string printable(const std::string& text, size_t most = 60) {
    std::string result = text.substr(0, most);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    }
    return text.size() > most ? result + "..." : result;
}

}  // namespace cpuft
