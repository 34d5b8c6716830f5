"""Operations on graphs: sparse products, attention, random walks."""
