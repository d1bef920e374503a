from lin import META,HT,HELD,z,MOS,SUB
from ev import *
import sys
tr=(~META.held).to_numpy(); web=(META.kind=='web').to_numpy().astype(int)
T=z(META.clean.to_numpy())+z(META.logfr.to_numpy())
def load(tag):
    g=lambda n: np.load(f'{n}_{tag}.npy')[:,:1120]
    return np.concatenate([g('pool0'),g('pool1')]),g('dev'),g('syn')
def fit(X,pen,T=T,tr=tr):
    X=X.astype(np.float64); mu=X[tr].mean(0); sd=X[tr].std(0)+1e-6; Z=(X[tr]-mu)/sd; t=T[tr].astype(float).copy()
    for k in 0,1:
        q=web[tr]==k; Z[q]-=Z[q].mean(0); t[q]-=t[q].mean()
    c=np.linalg.solve(Z.T@Z+pen*np.eye(Z.shape[1]),Z.T@t); return lambda Q:(Q-mu)/sd@c
if __name__=='__main__':
    import time
    sets={t:load(t) for t in sys.argv[1:]}
    for name in list(sets)+(['+'.join(sets)] if len(sets)>1 else []):
        P,D,S=[np.concatenate([sets[t][k] for t in name.split('+')],1) for k in range(3)]
        for pen in (1e4,3e4,1e5):
            f=fit(P,pen); report(f'{name} {pen:g}',f(D),f(S),f(P[HELD]),HT,worst=3)
