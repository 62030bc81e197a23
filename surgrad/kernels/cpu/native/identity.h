// Every library says what it was built from, so that another one under its name is not used (build.py).
#pragma once
#ifndef SURGRAD_KEY
#define SURGRAD_KEY none
#endif
#define SURGRAD_TEXT_OF(x) #x
#define SURGRAD_TEXT(x) SURGRAD_TEXT_OF(x)
extern "C" inline __attribute__((used)) const char* surgrad_key() { return SURGRAD_TEXT(SURGRAD_KEY); }
