// The table of an instruction set. Included by its file, after all else.

#define PSTMO_EDGE_TABLE(isa, name, Codes)                                                                        \
  Kernels {                                                                                                       \
    isa, name, kPanel, kTileRows, sizeof(Codes::Code), Codes::kGroup, kCodeShift, Codes::kWideWeights,            \
        packed_bytes<Codes>, pack<FloatPath, float>, pack<Codes, int8_t>, pack<WordPath, int8_t>, product<Codes>, \
        layer_norm<Codes>, attention<Codes>, convert<Codes>, clear_codes<Codes>, put_heads, peak<FloatPath>,      \
        peak<Codes>, peak<WordPath>                                                                               \
  }
