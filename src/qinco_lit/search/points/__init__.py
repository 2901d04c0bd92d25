"""Operating points: engines, ours and those of faiss, explored for recall against speed."""
